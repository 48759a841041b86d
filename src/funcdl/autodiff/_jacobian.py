"""Jacobians, by columns or by rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Function, PyTree
from funcdl.autodiff._bind import bind, form
from funcdl.autodiff._unit_vectors import DENSE_BYTES, check_bytes, check_chunk, images, unraveled

_INSTEAD = "use products with it: jax.jvp, jax.vjp, or both as an operator, operators.from_function"


def jacobian(f: Function, *, chunk: int | None = None, max_bytes: int = DENSE_BYTES) -> Callable:
    r"""Compute the derivative of f in its first argument, :math:`\partial f_i / \partial x_j`.

    It goes by columns (forward) if f returns at least as many numbers as x holds and by rows
    (reverse) otherwise, with one evaluation of f and ``chunk`` directions at a time. Memory is that
    of the result and of ``chunk`` passes, whereas ``jax.jacfwd`` holds all of them.

    Args:
        f: ``f(x, *args)``; x and the result are pytrees of floats. Leaves of x that are integers,
            booleans or keys are carried along.
        chunk: The number of directions at a time; by default 16 on a CPU, 128 elsewhere.
        max_bytes: The largest allowed size of the result; checked before anything is allocated.

    Returns:
        A function ``derivative(x, *args)`` that returns, in place of each leaf of ``f(x, *args)``,
        a tree like x of blocks of shape (leaf of f) + (leaf of x), as in ``jax.jacfwd``; leaves of
        x that are not floats are returned unchanged. ``args`` are held fixed. It raises
        ``ValueError`` if the result is too large, and ``TypeError`` if x has no floats or a complex
        leaf, or if f does not return floats.

    >>> import jax.numpy as jnp
    >>> jacobian(lambda x: x**2)(jnp.asarray([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    def derivative(x: PyTree, *args: Any) -> PyTree:
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
    """Return a list of blocks, one per leaf of x, in place of each leaf of y."""
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
