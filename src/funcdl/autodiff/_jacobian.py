"""Jacobians, by columns or by rows."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.autodiff._bind import bind, form
from funcdl.autodiff._unit_vectors import DENSE_BYTES, check_bytes, check_chunk, images, unraveled

_INSTEAD = "use products with it: jax.jvp, jax.vjp, or both as an operator of linalg"


def jacobian(f: Callable, *, chunk: int | None = None, max_bytes: int = DENSE_BYTES) -> Callable:
    r"""Write out the derivative of f in its first argument, :math:`\partial f_i / \partial x_j`.

    By columns (forward) where f returns at least as many numbers as x holds, else by rows
    (reverse), on one evaluation of f and ``chunk`` at a time, so that memory is that of the result
    and of ``chunk`` passes, where ``jax.jacfwd`` holds all of them.

    Args:
        f: ``f(x, *args)``; x and what it returns are pytrees of floats. Leaves of x that are
            integers, booleans or keys are carried along.
        chunk: How many directions at a time; by default 16 on a CPU, 128 elsewhere.
        max_bytes: Refuse beyond this size of the result, before anything is allocated.

    Returns:
        ``derivative(x, *args)``: in place of each leaf of ``f(x, *args)`` a tree like x of blocks
        of shape (leaf of f) + (leaf of x), as of ``jax.jacfwd``; where x has no float, what x has
        there. ``args`` are held fixed. It raises ``ValueError`` where the result is too large, and
        ``TypeError`` where x has no floats or a complex leaf, or f returns what are no floats.

    >>> import jax.numpy as jnp
    >>> jacobian(lambda x: x**2)(jnp.asarray([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    def derivative(x: PyTree, *args) -> PyTree:
        bound = bind(f, x, args)
        y = form(bound)
        shape, dtype = (_tree.size(y), _tree.size(bound.leaves)), jnp.result_type(*bound.leaves)
        check_chunk(chunk)
        check_bytes("Jacobian", shape, dtype, max_bytes, _INSTEAD)
        blocks = _blocks(bound.g, bound.leaves, chunk)
        return jax.tree.map(lambda _, row: bound.fill(row), y, blocks)

    return derivative


@partial(jax.jit, static_argnums=2)
def _blocks(g: Callable, leaves: list, chunk: int | None) -> PyTree:
    """Return a list of blocks, one a leaf of x, in place of each leaf of y."""
    like = jax.eval_shape(g, leaves)
    if _tree.size(leaves) <= _tree.size(like):
        _, push = jax.linearize(g, leaves)
        stack = images(push, leaves, chunk)
        return jax.tree.map(lambda y: _last(unraveled(y, leaves), y.ndim - 1), stack)
    _, pull = jax.vjp(g, leaves)
    rows = [unraveled(a, like) for a in images(lambda w: pull(w)[0], like, chunk)]
    return jax.tree.map(lambda _, *row: list(row), like, *rows)


def _last(blocks: list, ndim: int) -> list:
    """Move the axes of x, which come first, behind the ``ndim`` axes of y."""
    return [jnp.moveaxis(a, range(-ndim, 0), range(ndim)) for a in blocks]
