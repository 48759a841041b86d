"""Polar factor and square root: derivatives of every order from their defining equations."""

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal, rounding
from funcdl._typing import Array, Float
from funcdl.linalg._eigh import eigen_factors, symmetric_part
from funcdl.linalg._svd import factors, outside


def polar(a: Float[Array, "m n"]) -> Float[Array, "m n"]:
    r"""Compute the polar factor :math:`P = U V^\top` of :math:`A = P H`.

    It is the matrix with orthonormal columns that is nearest to A.

    Differentiated, :math:`dP = P \Omega + (I - P P^\top)\, dA\, H^{-1}` with the skew-symmetric
    solution of :math:`\Omega H + H \Omega = P^\top dA - dA^\top P`. This is right to every order at
    any tie, as long as A has full rank; parts that belong to a zero singular value count as 0.

    Args:
        a: The matrix, ``(m, n)``; for m < n the rows of the result are orthonormal.

    Returns:
        ``(m, n)``.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    Source: Higham, "Functions of matrices" (2008), chapter 8.

    >>> from funcdl import linalg
    >>> linalg.polar(jnp.asarray([[0.0, -3.0], [2.0, 0.0]])).round(4).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    a = _check.matrix("a", a)
    if a.shape[0] < a.shape[1]:
        return polar(a.T).T
    return _tall_polar(a / power_of_two(a))


@jax.custom_jvp
@exact
def _tall_polar(a: Array) -> Array:
    u, _, v = factors(a)
    return u @ v.T


@_tall_polar.defjvp
@exact
def _tall_polar_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a,), (da,) = primals, tangents
    p = _tall_polar(a)
    h = symmetric_part(p.T @ a)
    e = p.T @ da
    dp = p @ _sylvester(h, e - e.T)
    if a.shape[0] > a.shape[1]:
        # X H = R is half of X H + H X = R, with the columns of R outside the span of P
        dp = dp + _right_inverse(h, outside(p, da))
    return p, dp


def sqrtm(a: Float[Array, "n n"]) -> Float[Array, "n n"]:
    r"""Compute the square root of a positive definite matrix, :math:`X X = A`.

    Differentiated, :math:`dX\,X + X\,dX = dA`, which is right to every order at any tie. A negative
    eigenvalue makes it NaN; at 0 the derivative does not exist, and that part counts as 0.

    Args:
        a: The matrix, ``(n, n)``; :math:`(A + A^\top)/2` is used.

    Returns:
        ``(n, n)``, symmetric positive definite.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a square matrix.

    Source: Higham, "Functions of matrices" (2008), chapter 6.

    >>> from funcdl import linalg
    >>> linalg.sqrtm(jnp.diag(jnp.asarray([4.0, 9.0]))).diagonal().tolist()
    [2.0, 3.0]
    """
    a = symmetric_part(_check.square("a", a))
    # an even power of two, so that its root is a power of two as well
    c = power_of_two(jnp.sqrt(power_of_two(a)))
    return c * _root(a / c / c)


@jax.custom_jvp
@exact
def _root(a: Array) -> Array:
    w, v = eigen_factors(a)
    w = jnp.where(jnp.abs(w) <= rounding(w, a.shape), 0, w)
    return (v * jnp.sqrt(w)[None]) @ v.T


@_root.defjvp
@exact
def _root_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a,), (da,) = primals, tangents
    x = _root(a)
    return x, _sylvester(symmetric_part(x), da)


def _sylvester(h: Array, rhs: Array) -> Array:
    """Solve ``X H + H X = rhs`` for positive definite H; self-adjoint for every symmetric H."""
    w, v = jax.lax.stop_gradient(eigen_factors(h))
    inverse = reciprocal(w[:, None] + w[None, :], 2 * rounding(w, h.shape))

    def solve(_, b):
        return v @ ((v.T @ b @ v) * inverse) @ v.T

    return jax.lax.custom_linear_solve(lambda x: x @ h + h @ x, rhs, solve, symmetric=True)


def _right_inverse(h: Array, rhs: Array) -> Array:
    """Solve ``X H = rhs`` for positive definite H; self-adjoint for every symmetric H."""
    w, v = jax.lax.stop_gradient(eigen_factors(h))
    inverse = reciprocal(w, rounding(w, h.shape))[None]

    def solve(_, b):
        return ((b @ v) * inverse) @ v.T

    return jax.lax.custom_linear_solve(lambda x: x @ h, rhs, solve, symmetric=True)
