"""Eigenvalues of symmetric matrices, with derivatives that are finite everywhere."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import decomposed, exact, power_of_two, reciprocal
from funcdl._typing import Array, Float, Scalar
from funcdl.linalg._svd import relative_gap


class Eigh(NamedTuple):
    r"""The factors of a symmetric matrix, :math:`A = V \operatorname{diag}(w) V^\top`.

    Attributes:
        values: ``(n,)``, descending.
        vectors: ``(n, n)``, orthonormal columns.
        gap: The smallest distance between neighboring values, relative to the largest magnitude.
            Where it is of the order of rounding, single vectors have no derivative.
    """

    values: Array
    vectors: Array
    gap: Scalar


def eigh(a: Float[Array, "n n"]) -> Eigh:
    r"""Decompose a symmetric matrix, :math:`A = V \operatorname{diag}(w) V^\top`.

    Only :math:`(A + A^\top)/2` is used. With :math:`C = V^\top dA\,V`

    .. math:: dw_i = C_{ii}, \qquad (V^\top dV)_{ij} = C_{ij} / (w_j - w_i)

    A quotient whose divisor is 0 up to rounding counts as 0, so derivatives are never NaN; those of
    a simple eigenvalue and its vector are right to second order. A vector inside a tie has no
    derivative, as ``gap`` shows; functions of the whole tie do, and ``eigenspace`` and
    ``matrix_function`` differentiate them correctly.

    Args:
        a: The matrix, ``(n, n)``.

    Returns:
        Values, vectors and their gap.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a square matrix.

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
    """Return ``(w, v)``, in descending order, of a symmetric matrix scaled to about 1.

    Args:
        a: The matrix, ``(n, n)``.
        tie: Values closer than this, relative to the largest, do not rotate into each other in
            derivatives; by default the rounding error.

    Returns:
        Values and vectors.
    """
    return _factors(float(jnp.finfo(a.dtype).eps) * len(a) if tie is None else tie, a)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _factors(tie: float, a: Array) -> tuple[Array, Array]:
    del tie
    w, v = decomposed(partial(jnp.linalg.eigh, symmetrize_input=False), a)
    return w[::-1], v[:, ::-1]


@_factors.defjvp
@exact
def _factors_jvp(tie: float, primals: tuple, tangents: tuple) -> tuple:
    (a,), (da,) = primals, tangents
    w, v = _factors(tie, a)
    c = v.T @ da @ v
    rotation = c * reciprocal(w[None, :] - w[:, None], tie * jnp.abs(w).max())
    return (w, v), (jnp.diag(c), v @ rotation)
