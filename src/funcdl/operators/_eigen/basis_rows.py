"""The rows of a basis, read and written in place: at no time are there two of it."""

import jax
import jax.numpy as jnp

from funcdl._typing import Array

_COLUMNS = 2**14  # rotated at a time


def row(rows: Array, j) -> Array:
    """Read row j, a traced index in range."""
    return jax.lax.dynamic_index_in_dim(rows, j, keepdims=False)


def with_row(rows: Array, x: Array, j) -> Array:
    """Write row j, a traced index in range."""
    return jax.lax.dynamic_update_index_in_dim(rows, x, j, 0)


def rotate(rows: Array, q: Array, skip) -> Array:
    """Replace m rows by their combinations with the columns of q, piece by piece.

    Args:
        rows: ``(m, ...)``.
        q: ``(m, m)``.
        skip: Traced; true promises that q is the identity.

    Returns:
        ``(m, ...)``.
    """
    m = q.shape[0]
    flat = rows.reshape(m, -1)
    count, rest = divmod(flat.shape[1], _COLUMNS)

    def piece(flat, start, width):
        block = jax.lax.dynamic_slice(flat, (0, start), (m, width))
        block = jnp.matmul(q.T, block, precision="highest")
        return jax.lax.dynamic_update_slice(flat, block, (0, start))

    if count:
        body = lambda i, flat: piece(flat, i * _COLUMNS, _COLUMNS)
        flat = jax.lax.fori_loop(0, jnp.where(skip, 0, count), body, flat)
    if rest:
        flat = piece(flat, count * _COLUMNS, rest)
    return flat.reshape(rows.shape)
