"""Toeplitz matrices: products by Fourier transforms, solves by preconditioned iteration."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import concrete, real_array
from funcdl._numerics import custom_jvp
from funcdl._typing import Array, ArrayLike, Float, Matvec
from funcdl.operators._core.build import flat_space
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action
from funcdl.operators._solvers import refinement
from funcdl.operators._solvers.cg import cg_pass
from funcdl.operators._structured.circulant import filtered
from funcdl.operators._structured.levinson import levinson

_DENSE = 128  # below this size, a dense product is faster than Fourier transforms
_LU = 256  # up to this size, systems are solved by elimination
_LARGEST = 8192  # up to this size, elimination follows where the recursion fails
_STEPS = 500  # the largest number of steps of conjugate gradients


def toeplitz(column: Float[Array, " m"], row: Float[Array, " n"] | None = None) -> LinearOperator:
    r"""Return a matrix with constant diagonals: :math:`A_{ij} = c_{i-j}`, or :math:`r_{j-i}` above.

    Products cost :math:`O(n \log n)`: A is a corner of a circulant matrix. ``solve`` and ``logdet``
    eliminate up to n = 256. Beyond that, a symmetric A is solved by conjugate gradients with T.
    Chan's circulant preconditioner, in O(n log n) where A is positive definite; where this fails,
    and for any other A, by Levinson's recursion in O(n²), whose pivots give ``logdet``. Where the
    recursion fails too, since a leading matrix is nearly singular (for ``logdet``: its pivots range
    over more than half of the digits, and A is not positive definite), A is eliminated up to
    n = 8192. The true residual is measured: a solution with a backward error above a thousand
    roundings is NaN. So is a ``logdet`` beyond n = 8192 for which the recursion fails.

    Args:
        column: The first column c, ``(m,)``.
        row: The first row r, ``(n,)``, with ``row[0] = column[0]``. By default it equals the
            column, so that A is symmetric.

    Returns:
        An operator from vectors ``(n,)`` to ``(m,)``, with ``solve`` and ``logdet`` where m = n.

    Raises:
        TypeError: If they are not of a float dtype.
        ValueError: If they are not vectors, are empty, or disagree in their first entry.

    Source: T. Chan, "An optimal circulant preconditioner for Toeplitz systems" (1988); Golub and
    Van Loan, "Matrix computations" (2013), section 4.7.

    >>> A = toeplitz(jnp.asarray([2.0, -1.0, 0.0]))
    >>> (A @ jnp.ones(3)).tolist(), A.solve(jnp.asarray([1.0, 0.0, 1.0])).round(4).tolist()
    ([1.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    """
    column = _nonempty("column", column)
    if row is None:
        form = flat_space(column.size, column.dtype)
        return LinearOperator(_SYMMETRIC, column.astype(form.tree.dtype), form, form, True)
    row = _nonempty("row", row)
    first, corner = concrete(row[0]), concrete(column[0])
    if first is not None and corner is not None and first != corner:
        raise ValueError(
            f"row[0] is {first} and column[0] is {corner}; both are the corner of A and must agree"
        )
    dtype = jnp.result_type(column, row)
    n, m = (flat_space(x.size, dtype) for x in (row, column))
    column, row = (x.astype(n.tree.dtype) for x in (column, row))
    return LinearOperator(_GENERAL if n == m else _RECTANGULAR, (column, row), n, m)


def _nonempty(name: str, x: Array) -> Array:
    x = real_array(name, x, 1)
    if x.size == 0:
        raise ValueError(f"{name} has shape (0,); expected at least one number")
    return x


def _product(column: Array, row: Array) -> Matvec:
    """Return ``v -> A v``; the parts that depend only on the matrix are computed here."""
    m, n = column.size, row.size
    if max(m, n) < _DENSE:
        return partial(jnp.matmul, _dense(column, row), precision="highest")
    length = _fast_length(m + n - 1)
    around = jnp.zeros(length - m - n + 1, column.dtype)
    modes = jnp.fft.rfft(jnp.concatenate([column, around, row[:0:-1]]))
    return lambda v: filtered(modes, jnp.pad(v, (0, length - n)))[:m]


def _dense(column: Array, row: Array) -> Array:
    m, n = column.size, row.size
    i, j = jnp.arange(m)[:, None], jnp.arange(n)[None]
    return jnp.concatenate([row[:0:-1], column])[n - 1 + i - j]


def _fast_length(n: int) -> int:
    """Return the smallest even 2ᵃ 3ᵇ 5ᶜ >= n: Fourier transforms are fast for such lengths."""
    odd = [3**b * 5**c for b in range(9) for c in range(7)]
    return min(k << max(1, (-(-n // k) - 1).bit_length()) for k in odd)


# Elimination costs O(n³) but is stable, so it serves small systems. Large symmetric ones first run
# conjugate gradients, O(n log n) per step; their true backward error then decides whether
# Levinson's recursion has to follow. The recursion is not stable without pivoting, therefore it is
# refined up to three times, and where its backward error stays large, elimination follows. All ways
# only compute values: derivatives come from the equation, through custom_linear_solve.
def _solve(column: Array, row: Array, b: Array, symmetric: bool) -> Array:
    if column.size <= _LU:
        return jnp.linalg.solve(_dense(column, row), b)
    column_fixed, row_fixed = jax.lax.stop_gradient((column, row))
    solve = _by_iteration if symmetric else _by_recursion
    return jax.lax.custom_linear_solve(
        _product(column, row),
        b,
        lambda _, b: solve(column_fixed, row_fixed, b),
        transpose_solve=lambda _, b: solve(row_fixed, column_fixed, b),
    )


def _by_iteration(column: Array, row: Array, b: Array) -> Array:
    """Run preconditioned conjugate gradients and, where they fail, Levinson's recursion."""
    pass_ = partial(cg_pass, _product(column, row), _chan(column))
    end, good = _refined(column, row, b, pass_, _STEPS)
    return _recursion_where(~good, column, row, b, end.x)


def _by_recursion(column: Array, row: Array, b: Array) -> Array:
    return _recursion_where(jnp.bool(True), column, row, b, b)


def _recursion_where(needed: Array, column: Array, row: Array, b: Array, x: Array) -> Array:
    """Run Levinson's recursion where it is needed, refine it, and eliminate where it fails.

    Returns:
        The solution; ``x``, at no cost, where it is not needed.
    """

    def one_pass(r, _, __):
        return refinement.Pass(levinson(column, row, r).x, steps=1)

    end, good = _refined(column, row, b, one_pass, jnp.where(needed, 3, 0))
    x = jnp.where(needed, end.x, x)
    return _elimination_where(needed & ~good, column, row, b, x)


def _elimination_where(needed: Array, column: Array, row: Array, b: Array, x: Array) -> Array:
    if column.size > _LARGEST:
        return jnp.where(needed, jnp.nan, x)

    def one_pass(r, _, __):
        return refinement.Pass(jnp.linalg.solve(_dense(column, row), r), steps=1)

    # refinement of at most 0 steps costs nothing, unless a mapped lane needs more
    end, good = _refined(column, row, b, one_pass, jnp.where(needed, 2, 0))
    return jnp.where(needed, jnp.where(good, end.x, jnp.nan), x)


def _refined(
    column: Array, row: Array, b: Array, one_pass: Callable, steps: ArrayLike
) -> tuple[refinement.State, Array]:
    """Refine until the backward error is a few roundings; return whether it came near that."""
    eps, size = jnp.finfo(b.dtype).eps, jnp.abs(column).sum() + jnp.abs(row).sum()

    def backward_error(x, r, b, _):
        scale = size * _tree.norm(x) + _tree.norm(b)
        return _tree.norm(r) / jnp.where(scale == 0, 1, scale)

    product, start = _product(column, row), jnp.zeros_like(b)
    end = refinement.refined(one_pass, product, b, start, backward_error, (4 * eps, steps))
    return end, end.error <= 1000 * eps


def _chan(column: Array) -> Callable:
    """Return the product with the inverse of the circulant matrix that is nearest to A."""
    n = column.size
    weight = jnp.arange(n, dtype=column.dtype) / n
    around = jnp.append(0, column[:0:-1])
    modes = jnp.fft.rfft((1 - weight) * column + weight * around).real
    floor = jnp.finfo(modes.dtype).eps * jnp.abs(modes).max()
    return partial(filtered, 1 / jnp.maximum(modes, floor))


def _logdet(column: Array, row: Array, symmetric: bool) -> Array:
    if column.size <= _LU:
        return jnp.linalg.slogdet(_dense(column, row))[1]
    return _large_logdet(column, row, symmetric)


# As for solutions, elimination follows where the recursion fails. It is the body of a loop of one
# pass or none, so that mapped matrices run it only if one of them needs it.
@partial(custom_jvp, nondiff_argnums=(2,))
def _large_logdet(column: Array, row: Array, symmetric: bool) -> Array:
    recursive, is_sound = _recursive_logdet(column, row, symmetric)
    if column.size > _LARGEST:
        return jnp.where(is_sound, recursive, jnp.nan)

    def eliminate(_i, _recursive):
        return _dense_logdet(column, row)

    return jax.lax.fori_loop(0, (~is_sound).astype(int), eliminate, recursive)


@_large_logdet.defjvp
def _large_logdet_jvp(symmetric: bool, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    column, row = primals
    is_sound = _recursive_logdet(column, row, symmetric)[1]
    regular = jnp.zeros_like(column).at[0].set(1)

    def along(logdet, is_chosen):
        # the way that is not taken sees a regular matrix, or its NaN would reach the other
        safe = tuple(jnp.where(is_chosen, x, regular) for x in (column, row))
        return jax.jvp(logdet, safe, tangents)[1]

    def eliminated():
        nothing = jnp.full_like(column[0], jnp.nan) * sum(x.sum() for x in tangents)
        return nothing if len(regular) > _LARGEST else along(_dense_logdet, ~is_sound)

    recursive = lambda column, row: _recursive_logdet(column, row, symmetric)[0]
    tangent = jax.lax.cond(is_sound, lambda: along(recursive, is_sound), eliminated)
    return _large_logdet(column, row, symmetric), tangent


def _recursive_logdet(column: Array, row: Array, symmetric: bool) -> tuple[Array, Array]:
    """Return the sum of Levinson's pivots, and whether the recursion was stable."""
    result = levinson(column, row, jnp.zeros_like(column))
    is_sound = result.ratio > jnp.finfo(column.dtype).eps ** 0.5
    if symmetric:  # without pivoting, the recursion is stable for positive definite matrices
        is_sound |= result.smallest > 0
    return result.logdet, is_sound


def _dense_logdet(column: Array, row: Array) -> Array:
    return jnp.linalg.slogdet(_dense(column, row))[1]


_SYMMETRIC = Action(
    lambda c, v: _product(c, c)(v),
    solve=lambda c, b: _solve(c, c, b, True),
    logdet=lambda c: _logdet(c, c, True),
    shift=lambda c, damping: toeplitz(c.at[0].add(damping)),
)
_GENERAL = Action(
    lambda cr, v: _product(*cr)(v),
    lambda cr, w: _product(cr[1], cr[0])(w),
    solve=lambda cr, b: _solve(cr[0], cr[1], b, False),
    logdet=lambda cr: _logdet(cr[0], cr[1], False),
    shift=lambda cr, damping: toeplitz(*(x.at[0].add(damping) for x in cr)),
)
_RECTANGULAR = Action(*_GENERAL[:2])
