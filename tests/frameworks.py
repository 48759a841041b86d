"""The same nets in four frameworks, and what each framework computes of them by its own means."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import cases
from funcdl import _tree, nn


@dataclasses.dataclass(frozen=True, eq=False)
class Framework:
    """A net in one framework; ``net`` is what ``nn.split`` takes."""

    model: nn.Model
    x: jax.Array
    draw: Callable  # draw(key) -> net, of the numbers that model.init(key, x) has
    evaluate: Callable  # evaluate(net) -> y
    train: Callable  # train(net, key) -> (y, state by path)
    grad: Callable  # grad(net, key or None) -> gradient of mean(y²), by path


@functools.cache
def given(f: Framework) -> tuple:
    """The net of one key, and what the model draws from the same one."""
    with jax.enable_x64(False):
        return f.draw(jax.random.key(0)), f.model.init(jax.random.key(0), f.x)


def doubled(tree):
    """The same numbers in float64."""
    floating = lambda a: jnp.issubdtype(a.dtype, jnp.floating)
    return jax.tree.map(lambda a: a.astype(jnp.float64) if floating(a) else a, tree)


def same(a, b):
    chex.assert_trees_all_equal(a, b)


def close(a, b, atol=1e-12):
    """Compare two arrays, or two dicts of the same paths."""
    if not isinstance(a, dict):
        a, b = {"": a}, {"": b}
    assert sorted(a) == sorted(b)
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=0, atol=atol, err_msg=path)


def by_path(tree) -> dict:
    return dict(zip(_tree.paths(tree), jax.tree.leaves(tree)))


def _x(*shape):
    return cases.normal(0, *shape)  # of NumPy: jax takes it in the precision that is on


ROWS, IMAGES = _x(6, 5), _x(4, 6, 6, 2)


class LinenMLP(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
        x = linen.Dropout(0.5, deterministic=not train)(jnp.tanh(linen.Dense(4)(jnp.tanh(x))))
        return linen.Dense(3)(x)


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Conv(3, (3, 3))(x))
        x = linen.Dropout(0.5, deterministic=not train)(jnp.tanh(x).mean((1, 2)))
        return linen.Dense(3)(x)


class NnxMLP(nnx.Module):
    """Numbered layers, one of them used twice."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = [(5, 4), (4, 4), (4, 3)]
        self.layers = nnx.List([nnx.Linear(*size, rngs=rngs) for size in sizes])
        self.again = self.layers[1]
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.norm(self.layers[0](x)))
        x = self.dropout(jnp.tanh(self.again(self.layers[1](x))))
        return self.layers[2](x)


class NnxCNN(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.norm(self.first(self.conv(x)))).mean((1, 2))
        return self.out(self.second(x))


class EqxMLP(eqx.Module):
    layers: list
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    scale: jax.Array

    def __init__(self, key):
        sizes = [(5, 4), (4, 4), (4, 3)]
        self.layers = [
            eqx.nn.Linear(*size, key=k) for size, k in zip(sizes, jax.random.split(key, 3))
        ]
        self.norm = eqx.nn.BatchNorm(4, axis_name="examples", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.scale = jnp.arange(1, 4)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.layers[0](x), state)
        x = self.dropout(jnp.tanh(self.layers[1](jnp.tanh(x))), key=key)
        return self.layers[2](x) * self.scale, state


class EqxCNN(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, *, key):
        key_conv, key_out = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(2, 3, 3, padding=1, key=key_conv)
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="ema")
        self.dropout = eqx.nn.Dropout(0.5)
        self.out = eqx.nn.Linear(3, 3, key=key_out)

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.conv(x), state)
        return self.out(self.dropout(jnp.tanh(x).mean((1, 2)), key=key)), state


def haiku_mlp(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)
    x = jnp.tanh(hk.Linear(4)(jnp.tanh(x)))
    x = hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x
    return hk.Linear(3)(x)


def haiku_cnn(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(3, 3)(x), is_training)
    x = jnp.tanh(x).mean((1, 2))
    x = hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x
    return hk.Linear(3)(x)


def _linen(module, x) -> Framework:
    def draw(key):
        keys = dict(zip(("params", "dropout"), jax.random.split(key)))
        return module.bind(module.init(keys, x, train=False))

    def call(params, net, key):
        module, variables = net.unbind()
        variables = {**variables, "params": params}
        if key is None:
            return module.apply(variables, x, train=False), None
        rngs = {"dropout": jax.random.fold_in(key, 0)}
        return module.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])

    def loss(params, net, key):
        return (call(params, net, key)[0] ** 2).mean()

    def train(net, key):
        y, state = call(net.variables["params"], net, key)
        return y, by_path(state)

    return Framework(
        nn.from_linen(module),
        x,
        draw,
        lambda net: call(net.variables["params"], net, None)[0],
        train,
        lambda net, key: by_path(jax.grad(loss)(net.variables["params"], net, key)),
    )


def _nnx(constructor, x) -> Framework:
    def call(net, key):
        net.eval() if key is None else net.train()
        streams = [v for _, v in nnx.iter_graph(net) if isinstance(v, nnx.RngStream)]
        for i, stream in enumerate(streams):
            stream.key[...] = (
                jax.random.fold_in(key, 2 * i + 1) if key is not None else stream.key[...]
            )
            stream.count[...] = jnp.zeros_like(stream.count[...])
        return net(x)

    def train(net, key):
        net = nnx.clone(net)
        y = call(net, key)
        return y, by_path(nnx.to_pure_dict(nnx.state(net, nnx.BatchStat)))

    def grad(net, key):
        grads = nnx.grad(lambda net: (call(net, key) ** 2).mean())(nnx.clone(net))
        return by_path(nnx.to_pure_dict(grads))

    return Framework(
        nn.from_nnx(constructor),
        x,
        lambda key: constructor(rngs=nnx.Rngs(key)),
        lambda net: call(nnx.clone(net), None),
        train,
        grad,
    )


def _equinox(constructor, x) -> Framework:
    constructor = eqx.nn.make_with_state(constructor)

    def call(net, key):
        module, state = net[0], jax.tree.map(lambda a: a, net[1])  # a state is used up
        axis = module.norm.axis_name
        if key is None:
            one = lambda x: eqx.nn.inference_mode(module)(x, state)[0]
            return jax.vmap(one, axis_name=axis)(x), None
        one = lambda x, key: module(x, state, key=key)
        keys = jax.random.split(key, len(x))
        return jax.vmap(one, out_axes=(0, None), axis_name=axis)(x, keys)

    def train(net, key):
        y, state = call(net, key)
        values = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            net[0], is_leaf=lambda leaf: isinstance(leaf, eqx.nn.StateIndex)
        ):
            if isinstance(leaf, eqx.nn.StateIndex):
                inner = by_path(state.get(leaf))
                name = _tree.path_text(path)
                values |= {f"{name}/{at}".strip("/"): value for at, value in inner.items()}
        buffers = eqx.filter(net[0], lambda a: eqx.is_array(a) and not eqx.is_inexact_array(a))
        return y, values | by_path(buffers)

    def grad(net, key):
        module, state = net
        loss = lambda module: (call((module, state), key)[0] ** 2).mean()
        return by_path(eqx.filter_grad(loss)(module))

    return Framework(
        nn.from_equinox(constructor),
        x,
        lambda key: constructor(key=key),
        lambda net: call(net, None)[0],
        train,
        grad,
    )


def _haiku(f, x) -> Framework:
    transformed = hk.transform_with_state(f)

    def loss(params, state, key):
        return (transformed.apply(params, state, key, x, key is not None)[0] ** 2).mean()

    def train(net, key):
        y, state = transformed.apply(*net[1:], key, x, True)
        return y, by_path(state)

    model = nn.from_haiku(f)

    def draw(key):  # haiku starts its averages from the numbers of x, which init does not read
        return transformed, transformed.init(key, x, True)[0], model.init(key, x).state

    return Framework(
        model,
        x,
        draw,
        lambda net: transformed.apply(*net[1:], None, x, False)[0],
        train,
        lambda net, key: by_path(jax.grad(loss)(*net[1:], key)),
    )


MLPS = {
    "linen": _linen(LinenMLP(), ROWS),
    "nnx": _nnx(NnxMLP, ROWS),
    "equinox": _equinox(EqxMLP, ROWS),
    "haiku": _haiku(haiku_mlp, ROWS),
}


@functools.cache
def cnns() -> dict[str, Framework]:
    """Convolution, batch norm and dropout; equinox takes the channels first."""
    return {
        "linen": _linen(LinenCNN(), IMAGES),
        "nnx": _nnx(NnxCNN, IMAGES),
        "equinox": _equinox(EqxCNN, np.moveaxis(IMAGES, -1, 1)),
        "haiku": _haiku(haiku_cnn, IMAGES),
    }
