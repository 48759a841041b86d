"""Gradients through many invertible layers that recompute activations by the inverse."""

import jax
import jax.numpy as jnp

from funcdl._typing import Array, Function, PyTree
from funcdl.density._inverse import inverse

# Invariant of the backward scan: before layer k is undone, x is the output of layer k and
# ``cotangent`` is its cotangent. Inverting the layer gives its input, at which the layer is
# differentiated again, so no activation of the forward pass is needed.
# Gomez et al. (2017) keep none at all. Here a few checkpoints are kept, because rounding grows with
# every inverse and would go unnoticed: at a checkpoint the drift is measured and removed.
# If the drift, or a NaN from an inverse that did not converge, exceeds the tolerance, the gradient
# is discarded and recomputed forward from the checkpoints. That takes about (layers between
# checkpoints) / 2 more evaluations per layer, but the memory is the same and the result exact.
# The derivative is a ``custom_vjp`` of the batched function: under ``vmap`` each point would have
# a gradient by all parameters of its own in memory.


def reversible(layer: Function, *, checkpoints: int = 8, tolerance: float = 1e-3) -> Function:
    r"""Apply a stack of layers whose gradient does not store the activations.

    On the way back each activation is computed from the one after it by the inverse of the layer
    (Gomez et al., 2017), so the memory does not grow with the number of layers. Only the last
    activation and a few checkpoints are stored. At a checkpoint the activation is replaced by the
    stored one, and the difference between the two is the drift caused by rounding. If the drift
    exceeds the tolerance, all activations are recomputed forward from the checkpoints, which is
    slower but as exact as a scan, in the same memory.

    Args:
        layer: A function ``layer(x, params) -> x`` of one point that ``inverse`` accepts.
        checkpoints: The number of activations that are stored.
        tolerance: The largest drift that is accepted, relative to the largest number of each leaf
            of a point.

    Returns:
        A function ``run(xs, params) -> ys`` of a batch of points, ``(b, ...)``, and params with a
        leading axis of layers. It takes a batch, because under ``jax.vmap`` the gradient of each
        point by all parameters would be in memory. It has first derivatives in reverse mode.

    Raises:
        NotInjectiveError: If the layer has no inverse.
        TypeError: If a leaf of params is not floating point.
        ValueError: If checkpoints is less than 1, or params have no layers.

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
        stored = jax.tree.map(lambda a: jnp.zeros((-(-length // every), *a.shape), a.dtype), x)

        def step(state, at):
            x, stored = state
            index, p = at
            stored = jax.tree.map(lambda s, a: _store(s, a, index, every), stored, x)
            return (apply(x, p), stored), None

        (y, stored), _ = jax.lax.scan(step, (x, stored), (jnp.arange(length), params))
        return y, (y, stored, params)

    def backward(residuals, cotangent):
        return _backward(layer, checkpoints, tolerance, residuals, cotangent)

    run.defvjp(forward, backward)
    return run


def _require_layers(params: PyTree) -> int:
    """Return the number of layers; refuse params that are not stacked floats."""
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"params have a leaf of dtype {leaf.dtype}; expected only floats")
    if not leaves or leaves[0].shape[:1] in ((), (0,)):
        raise ValueError(
            "params have no leading axis of layers; stack the parameters of at least one layer"
        )
    return leaves[0].shape[0]


def _store(stored: Array, x: Array, index: Array, every: int) -> Array:
    """Write an activation to its place if it is a checkpoint."""
    place = index // every
    return stored.at[place].set(jnp.where(index % every == 0, x, stored[place]))


def _backward(
    layer: Function, checkpoints: int, tolerance: float, residuals: tuple, cotangent: PyTree
) -> tuple[PyTree, PyTree]:
    """Return the cotangents of the batch and of the parameters."""
    y, stored, params = residuals
    indices = jnp.arange(jax.tree.leaves(params)[0].shape[0])
    every = -(-len(indices) // checkpoints)
    apply = jax.vmap(layer, (0, None))
    undo = jax.vmap(inverse(layer, jax.tree.map(lambda a: a[0], y)), (0, None))

    pull = lambda x, p, cotangent: jax.vjp(apply, x, p)[1](cotangent)

    def by_inverse(state, at):
        x, cotangent, drift = state
        index, p = at
        x = undo(x, p)
        exact = jax.tree.map(lambda s: s[index // every], stored)
        is_checkpoint = index % every == 0
        drift = jnp.where(is_checkpoint, jnp.maximum(drift, _difference(x, exact)), drift)
        x = jax.tree.map(lambda a, b: jnp.where(is_checkpoint, b, a), x, exact)
        cotangent, gradient = pull(x, p, cotangent)
        return (x, cotangent, drift), gradient

    start = y, cotangent, jnp.zeros(())
    (_, first, drift), gradients = jax.lax.scan(by_inverse, start, (indices, params), reverse=True)

    def recomputed(_):
        def from_checkpoint(cotangent, at):
            index, p = at
            x = jax.tree.map(lambda s: s[index // every], stored)

            def ahead(j, x):
                q = jax.tree.map(lambda a: a[index - index % every + j], params)
                return apply(x, q)

            x = jax.lax.fori_loop(0, index % every, ahead, x)
            return pull(x, p, cotangent)

        return jax.lax.scan(from_checkpoint, cotangent, (indices, params), reverse=True)

    has_drifted = ~(drift <= tolerance)  # not drift > tolerance, which is False for a NaN
    return jax.lax.cond(has_drifted, recomputed, lambda state: state, (first, gradients))


def _difference(x: PyTree, y: PyTree) -> Array:
    """Return the largest difference of points, relative to y; infinite if x is not finite."""

    def largest(a, b):
        d, size = (jnp.abs(v).reshape(len(b), -1).max(1, initial=0) for v in (a - b, b))
        d = jnp.where(d == 0, 0, d / jnp.where(size > 0, size, 1) + jnp.where(size > 0, 0, jnp.inf))
        return jnp.where(jnp.isfinite(d), d, jnp.inf).max(initial=0).astype(jnp.float32)

    return jnp.stack(jax.tree.leaves(jax.tree.map(largest, x, y))).max()
