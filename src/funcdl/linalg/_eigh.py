"""Eigenvalues of symmetric matrices, with derivatives that are finite everywhere."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal
from funcdl._typing import Array, Float, Scalar
from funcdl.linalg._svd import relative_gap


class Eigh(NamedTuple):
    r"""A symmetric matrix as :math:`A = V \operatorname{diag}(w) V^\top`.

    Attributes:
        values: ``(n,)``, descending.
        vectors: ``(n, n)``, orthonormal columns.
        gap: The smallest distance of neighbouring values, relative to the largest in magnitude.
            Where it is of the size of rounding, single vectors have no derivative.
    """

    values: Array
    vectors: Array
    gap: Scalar


def eigh(a: Float[Array, "n n"]) -> Eigh:
    r"""Decompose a symmetric matrix, :math:`A = V \operatorname{diag}(w) V^\top`.

    Reads :math:`(A + A^\top)/2`. With :math:`C = V^\top dA\,V`

    .. math:: dw_i = C_{ii}, \qquad (V^\top dV)_{ij} = C_{ij} / (w_j - w_i)

    A quotient by zero, as far as can be told, counts as 0, so derivatives are never NaN; those of
    pairs with a value of their own are right to second order. A vector inside a tie has no
    derivative, as ``gap`` tells; functions of the whole tie have, and ``eigenspace`` and
    ``matrix_function`` get them right.

    Args:
        a: ``(n, n)``.

    Returns:
        Values, vectors and their gap.

    Raises:
        TypeError: If ``a`` is not of real floats.
        ValueError: If ``a`` is no square matrix.

    Source: Magnus, "On differentiating eigenvalues and eigenvectors" (1985).

    >>> from funcdl import linalg
    >>> linalg.eigh(jnp.diag(jnp.asarray([1.0, -2.0, 3.0]))).values.tolist()
    [3.0, 1.0, -2.0]
    """
    a = _check.square("a", a)
    c = power_of_two(a)
    w, v = eigen_factors(symmetric_part(a / c))
    return Eigh(w * c, v, relative_gap(w[:-1] - w[1:], w))


def symmetric_part(a: Array) -> Array:
    """Return ``(a + aᵀ) / 2``."""
    return (a + a.T) / 2


def eigen_factors(a: Array, tie: float | None = None) -> tuple[Array, Array]:
    """Return ``(w, v)``, descending, of a symmetric matrix that is in range.

    Args:
        a: ``(n, n)``.
        tie: Values closer than that, relative to the largest, do not rotate into each other in
            derivatives; by default the size of rounding.

    Returns:
        Values and vectors.
    """
    return _factors(float(jnp.finfo(a.dtype).eps) * len(a) if tie is None else tie, a)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _factors(tie: float, a: Array) -> tuple[Array, Array]:
    del tie
    w, v = jnp.linalg.eigh(a, symmetrize_input=False)
    return w[::-1], v[:, ::-1]


@_factors.defjvp
@exact
def _factors_jvp(tie, primals, tangents):
    (a,), (da,) = primals, tangents
    w, v = _factors(tie, a)
    c = v.T @ da @ v
    rotation = c * reciprocal(w[None, :] - w[:, None], tie * jnp.abs(w).max())
    return (w, v), (jnp.diag(c), v @ rotation)
