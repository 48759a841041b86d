"""Products of a tall matrix with itself, the main cost of least squares and PCA."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcdl._numerics import custom_jvp, exact, power_of_two
from funcdl._typing import Array

_ROWS = 2048  # the number of rows that fit into the cache together


@exact
def gram(x: Array, mean: Array | None = None, unit: Array | float = 1.0) -> Array:
    r"""Compute :math:`\sum_i (x_i - \mu)(x_i - \mu)^\top / u^2`, block by block of rows.

    Each block is centered, transposed (contracting over the last axis is twice as fast in float64)
    and multiplied while it is in the cache; three of the four quarters of the product are computed.
    No centered copy of x is made, and nothing cancels.

    Args:
        x: The rows, ``(n, d)``.
        mean: The center, ``(d,)``; by default 0.
        unit: The unit u of x, a power of two, in which squares stay in range.

    Returns:
        ``(d, d)``, symmetric, in at least float32.
    """
    h, scale = x.shape[1] // 2, 1 / unit  # exact, since unit is a power of two

    def quarters(block):
        block = (block.T if mean is None else block.T - mean[:, None]) * scale
        return block[:h] @ block[:h].T, block[:h] @ block[h:].T, block[h:] @ block[h:].T

    a, b, c = _sum_over_blocks(quarters, x)
    return jnp.block([[a, b], [b.T, c]])


def gram_in_range(
    x: Array, mean: Array | None = None, least: Array | float = 0.0
) -> tuple[Array, Array]:
    """Compute ``gram`` in a unit of x in which it, and all derivatives of it, are in range.

    The unit is found from the product in the unit 1 wherever that is in range: looking for the
    largest entry of x would cost as much as a tenth of the product.

    Args:
        x: The rows, ``(n, d)``.
        mean: The center, as in ``gram``.
        least: A lower bound for the unit.

    Returns:
        The product and the unit, a power of two.
    """
    plain = jax.lax.stop_gradient(gram(x, mean))
    size, info = jnp.trace(plain), jnp.finfo(x.dtype)
    is_in_range = jnp.isfinite(size) & (size > info.tiny / info.eps**2)

    def rescaled():
        unit = power_of_two(jnp.maximum(jnp.abs(x).max(), least))
        return gram(x, mean, unit), unit

    def converted():
        unit = power_of_two(jnp.maximum(jnp.sqrt(size), least).astype(x.dtype))
        return _converted(plain, x, mean, unit), unit

    return jax.lax.cond(is_in_range, converted, rescaled)


@custom_jvp
def _converted(product: Array, x: Array, mean: Array | None, unit: Array) -> Array:
    # Divided afterward, it would have the derivatives of the unit 1 in between, which go through
    # unit**-3 and leave the range long before x does.
    del x, mean
    return product * (1 / unit) * (1 / unit)


@_converted.defjvp
def _converted_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (_, x, mean, unit), (_, dx, dmean, _) = primals, tangents
    change = jax.jvp(lambda x, mean: gram(x, mean, unit), (x, mean), (dx, dmean))[1]
    return _converted(*primals), change


@exact
def gram_product(x: Array, y: Array, mean: Array | None = None, unit: Array | float = 1.0) -> Array:
    r"""Multiply the Gram matrix of x, which is not formed, by y; x is read once.

    Args:
        x: The rows, ``(n, d)``.
        y: The vectors to multiply, ``(d, k)``.
        mean: The center, as in ``gram``.
        unit: The unit, as in ``gram``.

    Returns:
        ``(d, k)``.
    """
    scale = 1 / unit

    def product(block):
        block = (block if mean is None else block - mean[None]) * scale
        return block.T @ (block @ y)

    return _sum_over_blocks(product, x)


def _sum_over_blocks(f: Callable, x: Array) -> Any:
    """Sum ``f(block)`` over blocks of rows, the last one ragged."""
    count = len(x) // _ROWS
    total = f(x[count * _ROWS :])
    if not count:
        return total
    blocks = x[: count * _ROWS].reshape(count, _ROWS, -1)
    return jax.lax.scan(lambda t, b: (jax.tree.map(jnp.add, t, f(b)), None), total, blocks)[0]
