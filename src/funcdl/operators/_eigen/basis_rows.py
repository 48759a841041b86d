"""In-place reads, updates and rotations of the rows of a basis: it is never held twice."""

import jax
import jax.numpy as jnp

from funcdl._typing import Array, ArrayLike

_COLUMNS = 2**14  # the number of columns rotated at a time


def row(rows: Array, j: ArrayLike) -> Array:
    """Read row j, a traced index in range."""
    return jax.lax.dynamic_index_in_dim(rows, j, keepdims=False)


def with_row(rows: Array, x: Array, j: ArrayLike) -> Array:
    """Write row j, a traced index in range."""
    return jax.lax.dynamic_update_index_in_dim(rows, x, j, 0)


def rotate(rows: Array, q: Array, skip: ArrayLike) -> Array:
    """Replace m rows by their combinations with the columns of q, piece by piece.

    Args:
        rows: ``(m, ...)``.
        q: ``(m, m)``.
        skip: Traced; true asserts that q is the identity.

    Returns:
        ``(m, ...)``.
    """
    m = q.shape[0]
    flat = rows.reshape(m, -1)
    count, remainder = divmod(flat.shape[1], _COLUMNS)

    def piece(flat, start, width):
        block = jax.lax.dynamic_slice(flat, (0, start), (m, width))
        block = jnp.matmul(q.T, block, precision="highest")
        return jax.lax.dynamic_update_slice(flat, block, (0, start))

    if count:
        body = lambda i, flat: piece(flat, i * _COLUMNS, _COLUMNS)
        flat = jax.lax.fori_loop(0, jnp.where(skip, 0, count), body, flat)
    if remainder:
        flat = piece(flat, count * _COLUMNS, remainder)
    return flat.reshape(rows.shape)
