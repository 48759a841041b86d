"""Matrices of linear functions: their values at every unit vector, several at a time."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import integer
from funcdl._typing import Array, DTypeLike, PyTree

DENSE_BYTES = 2**31  # the default limit of the size of a dense result


def coordinates(like: PyTree, chunk: int | None) -> tuple[Array, Callable]:
    """Number the coordinates of a tree.

    Args:
        like: Arrays, or their shapes and dtypes.
        chunk: The largest number of unit vectors at a time; ``None`` for the default.

    Returns:
        The numbers as rows of a matrix, one row per chunk, and ``unit(i)``: the i-th unit vector,
        or zero for the numbers beyond the last one that fill up the rows.
    """
    leaves, treedef = jax.tree.flatten(like)
    n = _tree.size(like)
    if chunk is None:  # measured: on a CPU, wider chunks do not fit into the cache
        chunk = 16 if jax.default_backend() == "cpu" else 128
    rounds = math.ceil(n / chunk)
    width = max(1, math.ceil(n / max(rounds, 1)))

    def unit(i):
        start, units = 0, []
        for a in leaves:
            units.append((jnp.arange(start, start + a.size) == i).astype(a.dtype).reshape(a.shape))
            start += a.size
        return jax.tree.unflatten(treedef, units)

    return jnp.arange(rounds * width).reshape(rounds, width), unit


def images(linear: Callable, like: PyTree, chunk: int | None) -> PyTree:
    """Apply a linear function of a tree like ``like`` to every unit vector.

    Returns:
        The values, with a leading axis n on every leaf: one entry per number in ``like``.
    """
    rows, unit = coordinates(like, chunk)
    values = jax.lax.map(jax.vmap(lambda i: linear(unit(i))), rows)
    return jax.tree.map(lambda a: a.reshape(rows.size, *a.shape[2:])[: _tree.size(like)], values)


def unraveled(stack: Array, like: PyTree) -> PyTree:
    """Split a leading axis of n numbers into the leaves of a tree, each in its own shape."""
    leaves, treedef = jax.tree.flatten(like)
    start, parts = 0, []
    for a in leaves:
        parts.append(stack[start : start + a.size].reshape(a.shape + stack.shape[1:]))
        start += a.size
    return jax.tree.unflatten(treedef, parts)


def check_chunk(chunk: object) -> None:
    """Raise an error if a number of directions is invalid.

    Raises:
        ValueError: If it is less than 1.
        TypeError: If it is not an integer.
    """
    if chunk is not None and integer("chunk", chunk) < 1:
        raise ValueError(f"chunk is {chunk}; expected at least one direction at a time")


def check_bytes(
    name: str, shape: tuple[int, int], dtype: DTypeLike, max_bytes: int, instead: str
) -> None:
    """Raise an error if a result is too large, before anything is allocated.

    Raises:
        ValueError: If it is; the message states the bytes and an alternative.
    """
    needed = math.prod(shape) * jnp.dtype(dtype).itemsize
    if needed > max_bytes:
        raise ValueError(
            f"the {name} ({shape[0]} x {shape[1]}) needs {needed:,} bytes, but the limit "
            f"max_bytes is {max_bytes:,}; {instead}"
        )
