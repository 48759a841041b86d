"""Products of a tall matrix with itself, which least squares and PCA mostly consist of."""

import jax
import jax.numpy as jnp

from funcdl._numerics import exact, power_of_two
from funcdl._typing import Array

_ROWS = 2048  # that lie in the cache together


@exact
def gram(x: Array, mean: Array | None = None, unit: Array | float = 1.0) -> Array:
    r"""Compute :math:`\sum_i (x_i - \mu)(x_i - \mu)^\top / u^2`, block by block of rows.

    A block is centered, transposed (the contraction over the last axis is twice as fast in float64)
    and multiplied while it is in the cache; of four quarters of the product three are computed. No
    centered copy of x is made, and nothing cancels.

    Args:
        x: ``(n, d)``.
        mean: ``(d,)``, 0 by default.
        unit: u, in which x is measured so that squares stay in range.

    Returns:
        ``(d, d)``, symmetric, in at least float32.
    """
    h, scale = x.shape[1] // 2, 1 / unit  # exact, unit is a power of two

    def quarters(block):
        block = (block.T if mean is None else block.T - mean[:, None]) * scale
        return block[:h] @ block[:h].T, block[:h] @ block[h:].T, block[h:] @ block[h:].T

    a, b, c = _sum_over_blocks(quarters, x)
    return jnp.block([[a, b], [b.T, c]])


def gram_in_range(
    x: Array, mean: Array | None = None, least: Array | float = 0.0
) -> tuple[Array, Array]:
    """Compute ``gram`` in a unit that keeps it in range: 1 wherever that will do.

    Looking for the largest entry first would cost as much as a tenth of the product.

    Args:
        x: ``(n, d)``.
        mean: As in ``gram``.
        least: Where the unit is not 1, it is no smaller than this.

    Returns:
        The product and the unit.
    """
    plain, info = gram(x, mean), jnp.finfo(x.dtype)
    size = jnp.trace(plain)
    fine = jnp.isfinite(size) & (size > info.tiny / info.eps**2)

    def again():
        unit = power_of_two(jnp.maximum(jnp.abs(x).max(), least))
        return gram(x, mean, unit), unit

    return jax.lax.cond(fine, lambda: (plain, jnp.ones((), x.dtype)), again)


@exact
def gram_product(x: Array, y: Array, mean: Array | None = None, unit: Array | float = 1.0) -> Array:
    r"""Multiply the Gram matrix of x, which is not formed, with y; x is read once.

    Args:
        x: ``(n, d)``.
        y: ``(d, k)``.
        mean: As in ``gram``.
        unit: As in ``gram``.

    Returns:
        ``(d, k)``.
    """
    scale = 1 / unit

    def product(block):
        block = (block if mean is None else block - mean[None]) * scale
        return block.T @ (block @ y)

    return _sum_over_blocks(product, x)


def _sum_over_blocks(f, x: Array):
    """Sum ``f(block)`` over blocks of rows, the last one ragged."""
    whole = len(x) // _ROWS
    total = f(x[whole * _ROWS :])
    if not whole:
        return total
    blocks = x[: whole * _ROWS].reshape(whole, _ROWS, -1)
    return jax.lax.scan(lambda t, b: (jax.tree.map(jnp.add, t, f(b)), None), total, blocks)[0]
