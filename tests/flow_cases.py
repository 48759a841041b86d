"""Flows that several test files share, with parameters far from their start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import flows

NET = flows.mlp(8, activation=jnp.tanh)
VECTOR, IMAGE, CONTEXT = (5,), (4, 4, 2), (3,)
FLOWS = {
    "real_nvp": (flows.real_nvp(3, NET), VECTOR),
    "real_nvp of one number": (flows.real_nvp(2, NET), (1,)),
    "neural_spline": (flows.neural_spline(2, NET, bins=4), VECTOR),
    "masked_autoregressive": (flows.masked_autoregressive(2, 7, 9), VECTOR),
    "autoregressive, no hidden layer": (flows.masked_autoregressive(2), VECTOR),
    "spline_autoregressive": (flows.spline_autoregressive(2, 8, bins=3), (3,)),
    "planar": (flows.planar(3), VECTOR),
    "continuous": (flows.continuous(NET, steps=2), VECTOR),
    "conv1x1": (flows.conv1x1(), IMAGE),
    "actnorm": (flows.actnorm(), IMAGE),
    "image_coupling": (flows.image_coupling(flows.cnn(3)), (2, 3, 3)),
    "glow": (flows.glow(2, 2, flows.cnn(3)), IMAGE),
    "chain": (flows.chain(flows.from_function(jnp.flip), flows.planar(1)), VECTOR),
}
WITHOUT_CONTEXT = {"conv1x1", "actnorm"}


def form(shape, dtype=None):
    return jax.ShapeDtypeStruct(shape, dtype or jnp.result_type(float))


def moved(params, size=0.3):
    """Add to every parameter what looks like noise."""

    def more(p, i):
        wave = np.sin(37.0 * np.arange(p.size) ** 1.5 + i)
        return np.asarray(p) + size * wave.reshape(p.shape).astype(p.dtype)

    leaves, treedef = jax.tree.flatten(params)
    return jax.tree.unflatten(treedef, [more(p, i) for i, p in enumerate(leaves)])


@functools.cache
def fresh(name: str, dtype=jnp.float32, conditional: bool = False):
    """A flow's parameters as ``init`` draws them."""
    flow, shape = FLOWS[name]
    context = form(CONTEXT, dtype) if conditional else None
    return jax.jit(lambda key: flow.init(key, form(shape, dtype), context))(jax.random.key(0))


def point(shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def jacobian(flow, params, x):
    flat = lambda v: flow.forward(params, v.reshape(x.shape)).ravel()
    return np.asarray(jax.jit(jax.jacfwd(flat))(x.ravel()))
