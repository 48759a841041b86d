"""The log-determinant of a dense block, -inf where the block is singular to working precision."""

import jax
import jax.numpy as jnp

from funcdl._typing import Array


@jax.custom_jvp
def log_abs_det(a: Array) -> Array:
    r"""Return :math:`\log|\det A|`; -inf if a pivot is only rounding error.

    Rows and columns are scaled to a largest entry of 1. A pivot of the LU factorization below
    :math:`16\sqrt{n}\,\varepsilon` is then rounding error in place of 0, and its logarithm would be
    noise.

    Args:
        a: The matrices, of shape ``(..., n, n)``.

    Returns:
        The logarithms, of shape ``(...)`` and the dtype of ``a``.
    """
    n = a.shape[-1]
    rows = _largest(a, -1)
    cols = _largest(a / rows, -2)
    lu, _, _ = jax.lax.linalg.lu(a / rows / cols)
    pivots = jnp.abs(jnp.diagonal(lu, axis1=-2, axis2=-1))
    log_det = jnp.log(pivots).sum(-1) + jnp.log(rows).sum((-1, -2)) + jnp.log(cols).sum((-1, -2))
    is_singular = (pivots <= 16 * n**0.5 * jnp.finfo(a.dtype).eps).any(-1)
    return jnp.where(is_singular, -jnp.inf, log_det)


def _largest(a: Array, axis: int) -> Array:
    """Return the largest magnitude as a power of 2, which scales without rounding; 1 if it is 0."""
    top = jnp.abs(a).max(axis, keepdims=True)
    return jnp.where((top > 0) & jnp.isfinite(top), jnp.exp2(jnp.round(jnp.log2(top))), 1)


@log_abs_det.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (a,), (da,) = primals, tangents
    return log_abs_det(a), jnp.trace(jnp.linalg.solve(a, da), axis1=-2, axis2=-1)


@jax.custom_jvp
def zeroed(x: Array, mask: Array) -> Array:
    """Set numbers to 0 where a mask holds; they keep their derivatives."""
    return jnp.where(mask, 0.0, x)


@zeroed.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return zeroed(*primals), tangents[0]
