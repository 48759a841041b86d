"""Banded matrices: products in O(n b), solves and determinants in O(n b²)."""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl._check import real_array
from funcdl._numerics import quotient
from funcdl._typing import Array, ArrayLike, Float
from funcdl.operators._core.build import flat_space
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action


def banded(
    diagonals: Float[Array, "k n"], *, symmetric: bool = False, psd: bool = False
) -> LinearOperator:
    r"""Return a matrix with b diagonals on each side: ``diagonals[b + i - j, j]`` :math:`= A_{ij}`.

    The layout is that of ``scipy.linalg.solve_banded((b, b), diagonals, ...)``: the rows are the
    diagonals, from the uppermost to the lowest, with each entry in its column of A. The b (b + 1)
    entries that lie outside of A are ignored. For the tridiagonal matrix with n = 3::

        *   a01 a12
        a00 a11 a22
        a10 a21 *

    ``solve`` eliminates with partial pivoting, in one scan.

    Args:
        diagonals: The diagonals, ``(2 b + 1, n)`` with ``b < n``.
        symmetric: Whether A equals its transpose; not checked.
        psd: Whether A is also positive semi-definite; not checked.

    Returns:
        An operator on vectors ``(n,)``, with ``solve`` and ``logdet``.

    Raises:
        TypeError: If the diagonals are not of a float dtype.
        ValueError: If their number is even, or too large for n.

    Source: Golub and Van Loan, "Matrix computations" (2013), section 4.3.

    >>> A = banded(jnp.asarray([[0.0, -1.0, -1.0], [2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]]))
    >>> (A @ jnp.ones(3)).tolist(), A.solve(jnp.asarray([1.0, 0.0, 1.0])).round(4).tolist()
    ([1.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    """
    diagonals = real_array("diagonals", diagonals, 2)
    k, n = diagonals.shape
    if k % 2 == 0 or k > 2 * n - 1:
        raise ValueError(
            f"diagonals has shape {diagonals.shape}; expected (2 b + 1, n) with b < n: an odd "
            "number of rows, with the main diagonal in the middle"
        )
    form = flat_space(n, diagonals.dtype)
    diagonals = diagonals.astype(form.tree.dtype)
    return LinearOperator(_BANDED, diagonals, form, form, symmetric or psd, psd)


def _skewed(rows: Array) -> Array:
    """Shift row r to the right by r columns: ``(k, n)`` to ``(k, n + k - 1)``."""
    k, n = rows.shape
    width = n + k
    return jnp.pad(rows, ((0, 0), (0, k))).reshape(-1)[: k * (width - 1)].reshape(k, width - 1)


def _matvec(diagonals: Array, v: Array) -> Array:
    k, n = diagonals.shape
    return _skewed(diagonals * v[None]).sum(0)[k // 2 :][:n]


def _transpose(diagonals: Array, w: Array) -> Array:
    return _matvec(_transposed(diagonals), w)


def _transposed(diagonals: Array) -> Array:
    """Return the diagonals of the transpose, 0 outside of it; column i is row i of the matrix."""
    k, n = diagonals.shape
    return _skewed(diagonals)[::-1, k // 2 :][:, :n]


# Pivoting brings a row up from at most `half` below, so U has k = 2 half + 1 diagonals, as many as
# A, and a window of half + 1 rows is all that elimination reads: the scan carries the window and
# takes in one row per step.
def _eliminated(diagonals: Array, b: Array) -> tuple[Array, Array]:
    """Reduce ``A x = b`` to ``U x = c``: row i of U from column i on, ``(n, k)``, and c."""
    rows = _transposed(diagonals).T
    half = rows.shape[1] // 2
    # the window holds rows i to i + half, from column i on
    start = [jnp.pad(rows[i, half - i :], (0, half - i)) for i in range(half + 1)]
    follow = (
        jnp.pad(rows[half + 1 :], ((0, half + 1), (0, 0))),
        jnp.pad(b[half + 1 :], (0, half + 1)),
    )

    def step(carry, entering):
        window, rhs = carry
        p = jnp.argmax(jnp.abs(window[:, 0]))
        row, c = window[p], rhs[p]
        window, rhs = window.at[p].set(window[0])[1:], rhs.at[p].set(rhs[0])[1:]
        factors = quotient(window[:, 0], jnp.where(row[0] == 0, 1, row[0]))
        window, rhs = window - factors[:, None] * row[None], rhs - factors * c
        window = jnp.concatenate([jnp.pad(window[:, 1:], ((0, 0), (0, 1))), entering[0][None]])
        return (window, jnp.append(rhs, entering[1])), (row, c)

    return jax.lax.scan(step, (jnp.stack(start), b[: half + 1]), follow)[1]


def _by_elimination(diagonals: Array, b: Array) -> Array:
    upper, c = _eliminated(diagonals, b)

    def step(following, row):
        u, ci = row
        x = (ci - u[1:] @ following) / u[0]
        return jnp.append(x, following)[:-1], x

    end = jnp.zeros(upper.shape[1] - 1, c.dtype)
    return jax.lax.scan(step, end, (upper, c), reverse=True)[1]


def _by_gtsv(diagonals: Array, b: Array) -> Array:
    lower, main, upper = _transposed(diagonals)
    return jax.lax.linalg.tridiagonal_solve(lower, main, upper, b[:, None])[:, 0]


def _solve(diagonals: Array, b: Array) -> Array:
    solve = _by_gtsv if len(diagonals) == 3 else _by_elimination
    fixed = jax.lax.stop_gradient(diagonals)
    return jax.lax.custom_linear_solve(
        partial(_matvec, diagonals),
        b,
        lambda _, b: solve(fixed, b),
        transpose_solve=lambda _, b: solve(_transposed(fixed), b),
    )


def _logdet(diagonals: Array) -> Array:
    upper, _ = _eliminated(diagonals, jnp.zeros_like(diagonals[0]))
    return jnp.log(jnp.abs(upper[:, 0])).sum()


def _shift(diagonals: Array, damping: ArrayLike) -> LinearOperator:
    return banded(diagonals.at[len(diagonals) // 2].add(damping))


_BANDED = Action(_matvec, _transpose, solve=_solve, logdet=_logdet, shift=_shift)
