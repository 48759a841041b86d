"""Gradients through many layers in the memory of a few: activations are computed back."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._typing import PyTree
from funcdl.density._inverse import inverse


def reversible(layer: Callable, *, checkpoints: int = 8, tolerance: float = 1e-3) -> Callable:
    r"""Apply a stack of layers whose gradient keeps no activations.

    On the way back each activation is the inverse of the one after it (Gomez et al., 2017), so the
    memory does not grow with the number of layers: the last activation and a few checkpoints are
    kept, at which the activation is replaced by the true one. The difference found there is the
    drift of rounding. Where it is more than the tolerance, all activations are computed forward
    again from the checkpoints: slower, as exact as a scan, in the same memory.

    Args:
        layer: ``layer(x, params) -> x``, of one point; ``inverse`` has to accept it.
        checkpoints: How many activations are kept.
        tolerance: The largest drift, relative to 1 + abs(x).

    Returns:
        ``run(xs, params) -> ys`` for a batch of points, (b, ...), and params with a leading axis of
        layers. It takes the batch, for under ``jax.vmap`` the gradient of each point by all
        parameters would be in memory. It has first derivatives in reverse mode.

    Raises:
        NotInjectiveError: If the layer has no inverse.
        TypeError: If params have leaves that are no floats.
        ValueError: If checkpoints is less than 1, or there is no layer.

    >>> import jax, jax.numpy as jnp
    >>> run = reversible(lambda x, p: x + jnp.tanh(p * x))
    >>> gradient = jax.grad(lambda p: run(jnp.ones(1), p).sum())(jnp.zeros(3))
    >>> gradient.tolist()
    [1.0, 1.0, 1.0]
    """
    if checkpoints < 1:
        raise ValueError(f"checkpoints is {checkpoints}; expected at least 1")

    apply = jax.vmap(layer, (0, None))

    @jax.custom_vjp
    def run(x, params):
        _require_layers(params)
        return jax.lax.scan(lambda x, p: (apply(x, p), None), x, params)[0]

    def forward(x, params):
        length = _require_layers(params)
        every = -(-length // checkpoints)
        kept = jax.tree.map(lambda a: jnp.zeros((-(-length // every), *a.shape), a.dtype), x)

        def step(state, at):
            x, kept = state
            index, p = at
            kept = jax.tree.map(lambda k, a: _keep(k, a, index, every), kept, x)
            return (apply(x, p), kept), None

        (y, kept), _ = jax.lax.scan(step, (x, kept), (jnp.arange(length), params))
        return y, (y, kept, params)

    def backward(residuals, cotangent):
        return _backward(layer, checkpoints, tolerance, residuals, cotangent)

    run.defvjp(forward, backward)
    return run


def _require_layers(params: PyTree) -> int:
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"params have a leaf of dtype {leaf.dtype}; expected floats alone")
    if not leaves or leaves[0].shape[:1] in ((), (0,)):
        raise ValueError("params have no leading axis of layers")
    return leaves[0].shape[0]


def _keep(kept, x, index, every: int):
    """Write an activation to its place, if it is one that is kept."""
    place = index // every
    return kept.at[place].set(jnp.where(index % every == 0, x, kept[place]))


def _backward(layer: Callable, checkpoints: int, tolerance: float, residuals, cotangent):
    y, kept, params = residuals
    length = jax.tree.leaves(params)[0].shape[0]
    every = -(-length // checkpoints)
    apply = jax.vmap(layer, (0, None))
    undo = jax.vmap(inverse(layer, jax.tree.map(lambda a: a[0], y)), (0, None))
    indices = jnp.arange(length)

    def pull(x, p, cotangent):
        return jax.vjp(apply, x, p)[1](cotangent)

    def by_inverse(state, at):
        x, cotangent, drift = state
        index, p = at
        x = undo(x, p)
        true = jax.tree.map(lambda k: k[index // every], kept)
        here = index % every == 0
        drift = jnp.where(here, jnp.maximum(drift, _difference(x, true)), drift)
        x = jax.tree.map(lambda a, b: jnp.where(here, b, a), x, true)
        cotangent, gradient = pull(x, p, cotangent)
        return (x, cotangent, drift), gradient

    start = y, cotangent, jnp.zeros(())
    (_, first, drift), gradients = jax.lax.scan(by_inverse, start, (indices, params), reverse=True)

    def again(_):
        def from_checkpoint(cotangent, at):
            index, p = at
            x = jax.tree.map(lambda k: k[index // every], kept)

            def ahead(j, x):
                q = jax.tree.map(lambda a: a[index - index % every + j], params)
                return apply(x, q)

            x = jax.lax.fori_loop(0, index % every, ahead, x)
            return pull(x, p, cotangent)

        return jax.lax.scan(from_checkpoint, cotangent, (indices, params), reverse=True)

    drifted = ~(drift <= tolerance)
    first, gradients = jax.lax.cond(drifted, again, lambda state: state, (first, gradients))
    return first, gradients


def _difference(x: PyTree, y: PyTree):
    """The largest difference, relative to 1 + abs(y); infinite where x is not a number."""

    def largest(a, b):
        d = jnp.abs(a - b) / (1 + jnp.abs(b))
        return jnp.where(jnp.isfinite(d), d, jnp.inf).max(initial=0).astype(jnp.float32)

    return jnp.stack(jax.tree.leaves(jax.tree.map(largest, x, y))).max()
