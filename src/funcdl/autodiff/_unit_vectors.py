"""Linear functions written out: their values at every unit vector, some at a time."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import integer
from funcdl._typing import Array, PyTree

DENSE_BYTES = 2**31  # what a dense result may take if nobody says more


def coordinates(like: PyTree, chunk: int | None) -> tuple[Array, Callable]:
    """Number the coordinates of a tree.

    Args:
        like: Arrays or forms.
        chunk: How many unit vectors there may be at a time; ``None`` chooses.

    Returns:
        Their numbers as rows of a matrix, one a chunk, and ``unit(i)``: the i-th unit vector, zero
        for the numbers beyond the last that make the rows equally long.
    """
    leaves, treedef = jax.tree.flatten(like)
    n = _tree.size(like)
    if chunk is None:  # measured: on a CPU wider ones leave the cache
        chunk = 16 if jax.default_backend() == "cpu" else 128
    rounds = math.ceil(n / chunk)
    width = math.ceil(n / max(rounds, 1))

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
        Its values, a leading axis n on every leaf: one entry for every number in ``like``.
    """
    rows, unit = coordinates(like, chunk)
    values = jax.lax.map(jax.vmap(lambda i: linear(unit(i))), rows)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: _tree.size(like)], values)


def unraveled(stack: Array, like: PyTree) -> PyTree:
    """Cut a leading axis of n numbers into the leaves of a tree, each in its own shape."""
    leaves, treedef = jax.tree.flatten(like)
    start, parts = 0, []
    for a in leaves:
        parts.append(stack[start : start + a.size].reshape(a.shape + stack.shape[1:]))
        start += a.size
    return jax.tree.unflatten(treedef, parts)


def check_chunk(chunk) -> None:
    """Refuse what is no number of directions.

    Raises:
        ValueError: If it is less than one.
        TypeError: If it is no integer.
    """
    if chunk is not None and integer("chunk", chunk) < 1:
        raise ValueError(f"chunk is {chunk}; expected at least one direction at a time")


def check_bytes(name: str, shape: tuple[int, int], dtype, max_bytes: int, instead: str) -> None:
    """Refuse what is too large to be written out, before anything is allocated.

    Raises:
        ValueError: Names the bytes and what to use instead.
    """
    needed = math.prod(shape) * jnp.dtype(dtype).itemsize
    if needed > max_bytes:
        raise ValueError(
            f"the {name} ({shape[0]} x {shape[1]}) needs {needed:,} bytes, the limit max_bytes is "
            f"{max_bytes:,}; {instead}"
        )
