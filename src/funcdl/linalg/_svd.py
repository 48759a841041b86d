"""Singular value decomposition with derivatives that are finite everywhere."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import decomposed, exact, power_of_two, reciprocal, rounding
from funcdl._typing import Array, Float, Scalar


class Svd(NamedTuple):
    r"""The factors of :math:`A = U \operatorname{diag}(s) V^\top`, with k = min(m, n).

    Attributes:
        u: ``(m, k)``, left singular vectors as columns.
        s: ``(k,)``, singular values, descending.
        v: ``(n, k)``, right singular vectors as columns.
        gap: The smallest distance between neighboring singular values, relative to the largest.
            Where it is of the order of rounding, single vectors have no derivative.
    """

    u: Array
    s: Array
    v: Array
    gap: Scalar


def svd(a: Float[Array, "m n"]) -> Svd:
    r"""Decompose a matrix, :math:`A = U \operatorname{diag}(s) V^\top`, economy size.

    With :math:`C = U^\top dA\,V`, :math:`y = (C + C^\top)/2` and :math:`z = (C - C^\top)/2`

    .. math::
        ds_i = C_{ii}, \qquad
        (U^\top dU)_{ij} = \frac{y_{ij}}{s_j - s_i} + \frac{z_{ij}}{s_j + s_i}, \qquad
        (V^\top dV)_{ij} = \frac{y_{ij}}{s_j - s_i} - \frac{z_{ij}}{s_j + s_i}

    A quotient whose divisor is 0 up to rounding counts as 0: inside a tie the vectors do not
    rotate. So derivatives are never NaN; those of vectors with a simple singular value are right to
    second order, whatever ties the others have. A vector inside a tie has no derivative, as ``gap``
    shows; a function of the whole tie does, and ``singular_subspace``, ``projector``,
    ``low_rank_approximation`` and ``spectral_sum`` differentiate it correctly.

    Args:
        a: The matrix, ``(m, n)``, in any range that the dtype holds.

    Returns:
        Vectors, values and their gap.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    Source: Townsend, "Differentiating the singular value decomposition" (2016).

    >>> from funcdl import linalg
    >>> linalg.svd(jnp.asarray([[0.0, 2.0], [1.0, 0.0]])).s.tolist()
    [2.0, 1.0]
    """
    a = _check.matrix("a", a)
    c = power_of_two(a)
    u, s, v = factors(a / c)
    edge = s[:-1] - s[1:] if a.shape[0] == a.shape[1] else s - jnp.append(s[1:], 0)
    return Svd(u, s * c, v, relative_gap(edge, s))


def thin_svd(a: Array) -> tuple[Array, Array, Array]:
    """Return ``(u, s, vt)``, without derivatives of its own, to be called by ``decomposed``."""
    return tuple(jnp.linalg.svd(a, full_matrices=False))


def relative_gap(differences: Array, s: Array) -> Scalar:
    """Return the smallest difference in units of the largest value, or 1 without differences."""
    if not differences.size:
        return jnp.ones((), s.dtype)
    return jax.lax.stop_gradient(differences.min() * reciprocal(jnp.abs(s).max()))


def mean_where(chosen: Array, s: Array) -> Scalar:
    """Average the chosen values (or return 0 without any): at a tie, the symmetric choice."""
    count = chosen.sum()
    return jnp.where(chosen, s, 0).sum() / jnp.maximum(count, 1).astype(s.dtype)


@jax.custom_jvp
def factors(a: Array) -> tuple[Array, Array, Array]:
    """Return ``(u, s, v)`` of a matrix that is scaled to about 1; NaN if it is not finite."""
    u, s, vt = decomposed(thin_svd, a)
    return u, s, vt.T


@factors.defjvp
@exact
def _factors_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a,), (da,) = primals, tangents
    u, s, v = factors(a)
    noise = rounding(s, a.shape)
    c = u.T @ da @ v
    y, z = (c + c.T) / 2, (c - c.T) / 2
    y = y * reciprocal(s[None, :] - s[:, None], noise)
    z = z * reciprocal(s[None, :] + s[:, None], noise)
    du, dv, inverse = u @ (y + z), v @ (y - z), reciprocal(s, noise)[None]
    if a.shape[0] > a.shape[1]:
        du = du + outside(u, da @ v) * inverse
    if a.shape[0] < a.shape[1]:
        dv = dv + outside(v, da.T @ u) * inverse
    return (u, s, v), (du, jnp.diag(c), dv)


def outside(u: Array, x: Array) -> Array:
    """Project columns on the orthogonal complement of a basis, ``(I - u uᵀ) x``."""
    return x - u @ (u.T @ x)
