"""The span of a matrix: rank, condition number, a basis, linear dependence, pseudo-inverse."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import decomposed, exact, no_tangent, power_of_two, reciprocal, rounding
from funcdl._typing import Array, ArrayLike, Float, Int, Scalar
from funcdl.linalg._svd import factors, mean_where, thin_svd


class Span(NamedTuple):
    """The column space of a matrix.

    Attributes:
        basis: ``(m, min(m, n))``, orthonormal columns; those beyond the rank are 0.
        rank: The dimension of the space.
    """

    basis: Array
    rank: Int[Array, ""]


def rank(a: Float[Array, "m n"], tol: float | int | None = None) -> Int[Array, ""]:
    r"""Count the singular values above :math:`\mathrm{tol} \cdot s_1`.

    Args:
        a: The matrix, ``(m, n)``.
        tol: The tolerance, relative to the largest; by default the rounding error,
            :math:`\epsilon \max(m, n)`.

    Returns:
        The rank as an integer array, so that it can be traced; -1 if a traced matrix is not finite.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix or not finite, or ``tol`` is negative.

    >>> from funcdl import linalg
    >>> linalg.rank(jnp.ones((3, 2))).item()
    1
    """
    a, _ = _in_range(a)
    _check.finite("a", a)
    s = decomposed(partial(jnp.linalg.svd, compute_uv=False), a)
    return _count(significant(s, relative(tol, a)), a)


def cond(a: Float[Array, "m n"]) -> Scalar:
    r"""Compute :math:`\kappa(A) = s_1 / s_k`, the ratio of extreme singular values.

    Derivatives are right to second order where both are simple; at a tie, the mean over it takes
    the place of the value. Where the smallest is of the order of rounding, the derivative is 0.

    Args:
        a: The matrix, ``(m, n)``, with k = min(m, n).

    Returns:
        The condition number.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    >>> from funcdl import linalg
    >>> linalg.cond(jnp.diag(jnp.asarray([1.0, 4.0]))).item()
    4.0
    """
    a, _ = _in_range(a)
    s = factors(a)[1]
    known, noise = jax.lax.stop_gradient(s), rounding(s, a.shape)
    is_regular = known[-1] > noise
    largest = mean_where(known >= known[0] - noise, s)
    smallest = jnp.where(is_regular, mean_where(known <= known[-1] + noise, s), 1)
    return jnp.where(is_regular, largest / smallest, known[0] / known[-1])


def orth(a: Float[Array, "m n"], tol: float | int | None = None) -> Span:
    r"""Compute an orthonormal basis of the span of the columns.

    Args:
        a: The vectors as columns, ``(m, n)``.
        tol: The tolerance, as in ``rank``.

    Returns:
        The basis, padded with zero columns, and the rank. The projector on the span,
        ``basis @ basis.T``, does not depend on the choice of basis. If a traced matrix is not
        finite, they are NaN and -1.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix or not finite, or ``tol`` is negative.

    >>> from funcdl import linalg
    >>> (b, r) = linalg.orth(jnp.asarray([[0.0, 0.0], [1.0, 2.0]]))
    >>> abs(b).round(4).tolist(), r.item()
    ([[0.0, 0.0], [1.0, 0.0]], 1)
    """
    a, _ = _in_range(a)
    _check.finite("a", a)
    u, s, _ = factors(a)
    kept = significant(s, relative(tol, a))
    return Span(jnp.where(kept[None] | jnp.isnan(u), u, 0), _count(kept, a))


def linearly_independent(a: Float[Array, "m n"], tol: float | int | None = None) -> Array:
    """Check that no column is a linear combination of the others.

    Args:
        a: The vectors as columns, ``(m, n)``.
        tol: The tolerance, as in ``rank``.

    Returns:
        The answer as a boolean array, so that it can be traced.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix or not finite, or ``tol`` is negative.

    >>> from funcdl import linalg
    >>> linalg.linearly_independent(jnp.asarray([[1.0, 1.0], [0.0, 1.0]])).item()
    True
    """
    return rank(a, tol) == a.shape[1]


def pinv(a: Float[Array, "m n"], tol: float | int | None = None) -> Float[Array, "n m"]:
    r"""Compute the pseudo-inverse, :math:`A^+ = V_r \operatorname{diag}(1/s_i) U_r^\top`.

    Its derivative is the one at constant rank (Golub and Pereyra, 1973), of every order; where the
    rank changes, the pseudo-inverse jumps and has no derivative.

    Args:
        a: The matrix, ``(m, n)``.
        tol: Singular values up to ``tol`` times the largest count as 0, as in ``rank``.

    Returns:
        ``(n, m)``.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix or ``tol`` is negative.

    >>> from funcdl import linalg
    >>> linalg.pinv(jnp.asarray([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    a, c = _in_range(a)
    return pseudo_inverse(a, relative(tol, a))[0] / c


def relative(tol: float | None, a: Array) -> float | Array:
    """Return the tolerance of singular values, relative to the largest.

    Raises:
        ValueError: If it is negative.
    """
    if tol is None:
        return float(jnp.finfo(a.dtype).eps) * max(a.shape)
    _check.not_negative("tol", tol)
    return tol


def significant(s: Array, tol: float | Array) -> Array:
    """Mark the singular values that are not 0 up to the tolerance."""
    return (s > tol * s[:1]) & (s > 0)


def _count(kept: Array, a: Array) -> Array:
    return jnp.where(jnp.isfinite(a).all(), kept.sum(dtype=jnp.int32), -1)


# The derivative (Golub and Pereyra, 1973) is written in A and its pseudo-inverse P alone:
#     dP = -P dA P + P Pᵀ dAᵀ (I - A P) + (I - P A) dAᵀ Pᵀ P.
# It contains no singular vectors, so equal singular values do no harm, and it is differentiable
# again by the same rule. Which values count as 0 is decided once, relative to the largest, and is
# constant in the derivative: it is the one at constant rank. The caller scales A by a power of two,
# because the squares of P would leave the range of the dtype.
@jax.custom_jvp
@exact
def pseudo_inverse(a: Array, tol: ArrayLike) -> tuple[Array, Array]:
    """Return pseudo-inverse and rank of a matrix scaled to about 1, with relative tolerance."""
    u, s, vt = decomposed(thin_svd, a)
    inverse = reciprocal(s, tol * s[0])
    return (vt.T * inverse[None]) @ u.T, (inverse > 0).sum(dtype=jnp.int32)


@pseudo_inverse.defjvp
@exact
def _pseudo_inverse_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a, tol), (da, _) = primals, tangents
    p, rank = pseudo_inverse(a, tol)
    # at full rank this is exactly 0, and rounding errors would be multiplied by the squared inverse
    outer = jnp.where(rank < len(a), da.T - da.T @ a @ p, 0)
    inner = jnp.where(rank < len(p), da.T - p @ a @ da.T, 0)
    dp = p @ p.T @ outer + inner @ p.T @ p - p @ da @ p
    return (p, rank), (dp, no_tangent(rank))


def _in_range(a: Array) -> tuple[Array, Scalar]:
    a = _check.matrix("a", a)
    c = power_of_two(a)
    return a / c, c
