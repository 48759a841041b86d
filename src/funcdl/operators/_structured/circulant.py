"""Circulant matrices, by the Fourier transform of their first column."""

import jax.numpy as jnp

from funcdl._check import real_array
from funcdl._numerics import quotient
from funcdl._typing import Array, Float
from funcdl.operators._core.build import flat_space
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action


def circulant(column: Float[Array, " n"]) -> LinearOperator:
    r"""Return a circulant matrix, :math:`A_{ij} = c_{(i - j) \bmod n}`, in :math:`O(n \log n)`.

    :math:`A v = F^{-1}(F c \cdot F v)`: the eigenvalues are the Fourier transform of the column,
    ``jnp.fft.fft(column)``. A is singular where one of them is 0, up to n roundings of the largest.
    In that case ``solve`` returns x / 0, where x is the solution in the other modes, that is ±inf
    (NaN where x is 0); ``logdet`` is -inf; and no derivative is finite.

    Args:
        column: The first column, ``(n,)``.

    Returns:
        An operator on vectors ``(n,)``, with ``solve`` and ``logdet``.

    Raises:
        TypeError: If the column is not of a float dtype.
        ValueError: If it is not a vector.

    Source: Davis, "Circulant matrices" (1979).

    >>> A = circulant(jnp.asarray([1.0, 2.0, 3.0]))
    >>> (A @ jnp.asarray([1.0, 0.0, 0.0])).round(4).tolist(), A.dense()[0].round(4).tolist()
    ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    """
    column = real_array("column", column, 1)
    form = flat_space(column.size, column.dtype)
    return LinearOperator(_CIRCULANT, column.astype(form.tree.dtype), form, form)


def filtered(modes: Array, v: Array) -> Array:
    """Multiply the Fourier modes (``jnp.fft.rfft``) of a real vector by those of a filter."""
    return jnp.fft.irfft(modes * jnp.fft.rfft(v), v.size)


def _zero(modes: Array, n: int) -> Array:
    """Mark the modes that are 0 up to rounding."""
    sizes = jnp.abs(modes)
    return sizes <= n * jnp.finfo(sizes.dtype).eps * sizes.max()


def _solve(column: Array, b: Array) -> Array:
    modes = jnp.fft.rfft(column)
    zero = _zero(modes, column.size)
    x = filtered(quotient(1.0, jnp.where(zero, 1, modes)), b)
    # linear in b; a division, so that derivatives are not finite either
    return x / jnp.where(zero.any(), 0, 1)


def _logdet(column: Array) -> Array:
    modes = jnp.fft.fft(column)
    zero = _zero(modes, column.size)
    # a product rather than a `where`, so that the derivative of log at 0 is kept
    return jnp.log(jnp.abs(modes) * jnp.where(zero, 0, 1)).sum()


_CIRCULANT = Action(
    lambda column, v: filtered(jnp.fft.rfft(column), v),
    lambda column, w: filtered(jnp.fft.rfft(column).conj(), w),
    solve=_solve,
    logdet=_logdet,
    shift=lambda column, damping: circulant(column.at[0].add(damping)),
)
