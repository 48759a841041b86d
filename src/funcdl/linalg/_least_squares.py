"""Least squares by orthogonal factors, and ridge regression by the normal equations."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from funcdl import _check, _tree
from funcdl._numerics import decomposed, exact, no_tangent, power_of_two, reciprocal
from funcdl._typing import Array, ArrayLike, Float, Int, Scalar
from funcdl.linalg._gram import gram_in_range
from funcdl.linalg._rank import pseudo_inverse, relative, significant
from funcdl.linalg._svd import thin_svd


class LeastSquares(NamedTuple):
    r"""A solution of :math:`\min_x \|A x - b\|`, the shortest if there are several.

    Attributes:
        x: The solution, ``(n,)``.
        residual: The norm :math:`\|b - A x\|`.
        rank: The numerical rank of A; below n, the solution is not unique.
    """

    x: Array
    residual: Scalar
    rank: Int[Array, ""]


@exact
def least_squares(
    a: Float[Array, "m n"], b: Float[Array, " m"], *, tol: float | int | None = None
) -> LeastSquares:
    r"""Solve :math:`\min_x \|A x - b\|`; for m < n, or at deficient rank, :math:`x = A^+ b`.

    QR is used where the triangular factor is safely regular, and singular values where it is not;
    A is never squared. The derivative is that of the pseudo-inverse at constant rank, of every
    order (Golub and Pereyra, 1973); where the rank changes, x jumps and has no derivative.

    Args:
        a: The matrix A, ``(m, n)``.
        b: The right-hand side, ``(m,)``; for several, use ``jax.vmap``.
        tol: Singular values up to ``tol`` times the largest count as 0; by default the rounding
            error, :math:`\epsilon \max(m, n)`.

    Returns:
        Solution, residual and rank.

    Raises:
        TypeError: If ``a`` or ``b`` is not of a real float dtype.
        ValueError: If the rows do not match, values are not finite, or ``tol`` is negative.

    Source: Golub and Van Loan, "Matrix computations" (2013), sections 5.3 and 5.5.

    >>> from funcdl import linalg
    >>> a = jnp.asarray([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> linalg.least_squares(a, jnp.asarray([1.0, 4.0, 3.0])).residual.item()
    3.0
    """
    a, b = check_rows(a, b)
    _check.finite("a", a)
    _check.finite("b", b)
    c = power_of_two(a)
    x, rank = _solve(a / c, b, relative(tol, a))
    x = x / c
    return LeastSquares(x, _tree.norm(b - a @ x).astype(x.dtype), rank)


@exact
def ridge(
    a: Float[Array, "m n"], b: Float[Array, " m"], penalty: float | int | Scalar
) -> Float[Array, " n"]:
    r"""Solve :math:`\min_x \|A x - b\|^2 + \lambda \|x\|^2`.

    :math:`x = (A^\top A + \lambda I)^{-1} A^\top b`, or :math:`A^\top (A A^\top + \lambda
    I)^{-1} b` for m < n, by Cholesky. Differentiable in all arguments, to every order. There is no
    intercept: to fit one, center the columns of A and b.

    Args:
        a: The matrix A, ``(m, n)``.
        b: The right-hand side, ``(m,)``.
        penalty: The penalty, at least 0; at 0 with a singular matrix the solution is NaN, use
            ``least_squares``.

    Returns:
        The solution, ``(n,)``. Data with NaN give NaN; checking for it would cost up to 3 % more.

    Raises:
        TypeError: If ``a`` or ``b`` is not of a real float dtype.
        ValueError: If the rows do not match, or the penalty is not one finite number >= 0.

    Source: Hoerl and Kennard, "Ridge regression" (1970).

    >>> from funcdl import linalg
    >>> linalg.ridge(jnp.eye(2), jnp.asarray([2.0, 4.0]), 1.0).tolist()
    [1.0, 2.0]
    """
    a, b = check_rows(a, b)
    _check.penalty("penalty", penalty)
    wide = a.shape[0] < a.shape[1]
    return _ridge(a.T if wide else a, b, jnp.asarray(penalty, a.dtype), wide)


@partial(jax.jit, static_argnums=3)
def _ridge(a: Array, b: Array, penalty: Array, wide: bool) -> Array:
    g, unit = gram_in_range(a, least=jax.lax.stop_gradient(_tree.sqrt(penalty)))
    # multiplied twice, because two divisions would be merged into one by a square out of range
    scale = 1 / unit
    penalty, b = penalty * scale * scale, b * scale
    if wide:
        return a @ positive_solve(g, b, penalty) * scale
    return positive_solve(g, a.T @ b * scale, penalty)


def positive_solve(g: Array, b: Array, penalty: ArrayLike) -> Array:
    """Solve ``(g + penalty I) x = b`` by Cholesky; derivatives come from the equation."""
    penalty = jnp.asarray(penalty, g.dtype)
    stopped = jax.lax.stop_gradient(g + penalty * jnp.eye(len(g), dtype=g.dtype))
    factor = jax.scipy.linalg.cho_factor(stopped, lower=True)

    def solve(_, b):
        return jax.scipy.linalg.cho_solve(factor, b)

    # g is symmetric along every path, so symmetric=True is right to every order
    return jax.lax.custom_linear_solve(lambda x: g @ x + penalty * x, b, solve, symmetric=True)


def check_rows(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a matrix and a vector with one entry per row of it, in their common dtype.

    Raises:
        ValueError: If they do not match, or A has no rows or columns.
    """
    a, b = _check.matrix("a", a), _check.real_array("b", b, 1)
    if a.shape[0] != b.shape[0]:
        raise ValueError(
            f"a has {a.shape[0]} rows and b has {b.shape[0]} entries; expected equal numbers"
        )
    dtype = jnp.result_type(a, b)  # products of A alone would have fewer digits than the result
    return a.astype(dtype), b.astype(dtype)


@jax.custom_jvp
@jax.jit
def _solve(a: Array, b: Array, tol: float | Array) -> tuple[Array, Array]:
    m, n = a.shape
    if m < n:
        return _by_singular_values(a, b, tol)
    triangle = jnp.linalg.qr(jnp.concatenate([a, b[:, None]], axis=1), mode="r")
    r, qb = triangle[:n, :n], triangle[:n, n]
    inverse = solve_triangular(r, jnp.eye(n, dtype=a.dtype))
    # the product of the norms bounds the condition number
    is_regular = _tree.norm(r) * _tree.norm(inverse) * tol < 1
    return jax.lax.cond(
        is_regular,
        lambda: (solve_triangular(r, qb), jnp.full((), n, jnp.int32)),
        lambda: _by_singular_values(r, qb, tol),
    )


@_solve.defjvp
@exact
def _solve_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a, b, tol), (da, db, _) = primals, tangents
    x, rank = _solve(a, b, tol)
    p, _ = pseudo_inverse(a, tol)
    # at full rank this is exactly 0, and rounding errors would be multiplied by the squared inverse
    residual = jnp.where(rank < len(b), b - a @ x, 0)
    turn = da.T @ (p.T @ x)
    turn = jnp.where(rank < len(x), turn - p @ (a @ turn), 0)  # the part outside the row space
    dx = p @ (db - da @ x) + p @ (p.T @ (da.T @ residual)) + turn
    return (x, rank), (dx, no_tangent(rank))


def _by_singular_values(a: Array, b: Array, tol: float | Array) -> tuple[Array, Array]:
    u, s, vt = decomposed(thin_svd, a)
    kept = significant(s, tol)
    return vt.T @ (jnp.where(kept, u.T @ b, 0) * reciprocal(s)), kept.sum(dtype=jnp.int32)
