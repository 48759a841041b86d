"""The lasso by coordinate descent on the Gram matrix, stopped by its duality gap."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import custom_jvp, exact, power_of_two, reciprocal
from funcdl._typing import Array, ArrayLike, Bool, Float, Int, Scalar
from funcdl.linalg._gram import gram_in_range
from funcdl.linalg._least_squares import check_rows


class Lasso(NamedTuple):
    r"""A sparse solution of :math:`\min_x \frac1{2m} \|A x - b\|^2 + \lambda \|x\|_1`.

    Attributes:
        x: The solution, ``(n,)``.
        gap: The duality gap: the objective is at most this far above its minimum.
        converged: Whether ``gap <= tol * b @ b / m``.
        steps: The number of sweeps over the coordinates.
    """

    x: Array
    gap: Scalar
    converged: Bool[Array, ""]
    steps: Int[Array, ""]


class _Normal(NamedTuple):
    """The part of A and b that determines the lasso."""

    g: Array  # AᵀA / m
    c: Array  # Aᵀb / m
    power: Array  # bᵀb / m


@exact
def lasso(
    a: Float[Array, "m n"],
    b: Float[Array, " m"],
    penalty: float | int | Scalar,
    *,
    tol: float | int | None = None,
    max_steps: int = 1000,
) -> Lasso:
    r"""Solve :math:`\min_x \frac1{2m} \|A x - b\|^2 + \lambda \|x\|_1`.

    Differentiable in A, b and the penalty: on the support S,
    :math:`dx_S = G_{SS}^{-1} (dc - dG\,x - d\lambda \operatorname{sign} x)_S` with
    :math:`G = A^\top A / m`, :math:`c = A^\top b / m`; where the support changes there is a kink.
    Derivatives are NaN where the solution did not converge, and where the columns of the support
    are dependent. An intercept is not fitted: for one, center A and b.

    Args:
        a: The matrix A, ``(m, n)``.
        b: The right-hand side, ``(m,)``.
        penalty: The penalty, at least 0; from ``max |Aᵀ b| / m`` on, all of x is 0. At 0 no gap can
            prove a solution: use ``least_squares``.
        tol: The tolerance of the duality gap, relative to ``b @ b / m``; by default 1e-4 as in
            scikit-learn, but not below the rounding error of the dtype.
        max_steps: The largest number of sweeps over all coordinates.

    Returns:
        Solution, duality gap, whether it converged, and the number of sweeps.

    Source: Tibshirani (1996); Friedman, Hastie and Tibshirani, "Regularization paths for
    generalized linear models via coordinate descent" (2010).

    >>> from funcdl import linalg
    >>> linalg.lasso(jnp.eye(2), jnp.asarray([3.0, 0.5]), 0.5).x.tolist()
    [2.0, 0.0]
    """
    _check.penalty("penalty", penalty)
    a, b, relative_tol = _checked(a, b, tol, max_steps)
    solutions = _path(a, b, jnp.asarray(penalty, a.dtype)[None], relative_tol, max_steps)
    return jax.tree.map(lambda x: x[0], solutions)


@exact
def lasso_path(
    a: Float[Array, "m n"],
    b: Float[Array, " m"],
    penalties: Float[Array, " p"],
    *,
    tol: float | int | None = None,
    max_steps: int = 1000,
) -> Lasso:
    r"""Solve the lasso for several penalties, each starting from the previous solution.

    Args:
        a: The matrix A, ``(m, n)``.
        b: The right-hand side, ``(m,)``.
        penalties: The penalties, ``(p,)``, preferably in descending order.
        tol: The tolerance, as in ``lasso``.
        max_steps: The largest number of sweeps, as in ``lasso``, for each penalty.

    Returns:
        The result of ``lasso`` with a leading axis p on every field.

    Raises:
        TypeError: If an argument is not of a real float dtype.
        ValueError: If the rows do not match, values are not finite, or a penalty is negative.

    >>> from funcdl import linalg
    >>> b, penalties = jnp.asarray([3.0, 0.5]), jnp.asarray([1.0, 0.5])
    >>> linalg.lasso_path(jnp.eye(2), b, penalties).x.tolist()
    [[1.0, 0.0], [2.0, 0.0]]
    """
    penalties = _check.real_array("penalties", penalties, 1)
    _check.not_negative("penalty", penalties)
    _check.finite("penalties", penalties)
    a, b, relative_tol = _checked(a, b, tol, max_steps)
    return _path(a, b, penalties.astype(a.dtype), relative_tol, max_steps)


def _checked(
    a: Array, b: Array, tol: ArrayLike | None, max_steps: int
) -> tuple[Array, Array, Array]:
    a, b = check_rows(a, b)
    _check.finite("a", a)
    _check.finite("b", b)
    _check.integer_in("max_steps", max_steps, 1, 2**31 - 1)
    floor = 4 * jnp.finfo(a.dtype).eps
    return a, b, jnp.maximum(jnp.asarray(1e-4 if tol is None else tol, a.dtype), floor)


@partial(jax.jit, static_argnums=4)
def _path(a: Array, b: Array, penalties: Array, tol: Array, max_steps: int) -> Lasso:
    """Solve in units in which the squares of A and b stay in range."""
    m, unit_b = len(b), power_of_two(b)
    g, unit_a = gram_in_range(a)
    b = b / unit_b
    normal = _Normal(g / m, a.T @ b / unit_a / m, b @ b / m)

    penalties = penalties * (1 / unit_a) * (1 / unit_b)
    x, steps = _descend(
        jax.lax.stop_gradient(normal),
        jax.lax.stop_gradient(penalties),
        jax.lax.stop_gradient(tol),
        max_steps,
    )
    each = partial(jax.vmap, in_axes=(None, 0, 0))
    converged = each(_gap)(normal, penalties, x) <= tol * normal.power
    x = jax.vmap(_revealed, in_axes=(None, 0, 0, 0))(normal, penalties, x, converged)
    gap = each(_gap)(normal, penalties, x) * unit_b * unit_b
    return Lasso(x * (unit_b / unit_a), gap, converged, steps)


@exact
def _gap(normal: _Normal, penalty: Array, x: Array) -> Scalar:
    """Bound the objective's distance to its minimum, with the scaled residual as dual point."""
    return _gap_from(normal, penalty, x, normal.c - normal.g @ x)


def _gap_from(normal: _Normal, penalty: Array, x: Array, correlation: Array) -> Scalar:
    square = normal.power - x @ (normal.c + correlation)  # |b - A x|² / m
    peak = jnp.abs(correlation).max()
    shrink = jnp.where(peak > penalty, penalty / jnp.where(peak > 0, peak, 1), 1)
    along = normal.power - normal.c @ x  # bᵀ(b - A x) / m
    return 0.5 * (1 + shrink**2) * square + penalty * jnp.abs(x).sum() - shrink * along


@exact
# Coordinate descent on G = AᵀA / m and c = Aᵀb / m, so that a move costs n and not m numbers.
# Invariant: inside of a sweep, `correlation` is c - G x for the current x. Each sweep only visits
# the coordinates that are not 0 or violate their optimality condition; the others would stay at 0.
# `correlation` is recomputed after each sweep, so that rounding errors do not accumulate, and the
# duality gap, unlike the size of the moves, bounds the distance to the minimum.
def _descend(normal: _Normal, penalties: Array, tol: Array, max_steps: int) -> tuple[Array, Array]:
    """Return ``(p, n)`` solutions, each started from the one before, and the sweeps of each."""
    diagonal = jnp.diag(normal.g)
    inverse = reciprocal(diagonal)  # leaves out a column of zeros

    def solve(start, penalty):
        def sweep(state):
            x, correlation, step = state
            moving = (x != 0) | (jnp.abs(correlation) > penalty)
            order = jnp.argsort(~moving, stable=True)

            def move(i, state):
                x, correlation = state
                j = order[i]
                target = correlation[j] + diagonal[j] * x[j]
                new = jnp.sign(target) * jnp.maximum(jnp.abs(target) - penalty, 0) * inverse[j]
                return x.at[j].set(new), correlation - normal.g[j] * (new - x[j])

            x, _ = jax.lax.fori_loop(0, moving.sum(), move, (x, correlation))
            return x, normal.c - normal.g @ x, step + 1

        def unfinished(state):
            x, correlation, step = state
            gap = _gap_from(normal, penalty, x, correlation)
            return (step < max_steps) & ~(gap <= tol * normal.power)

        state = start, normal.c - normal.g @ start, jnp.zeros((), jnp.int32)
        x, _, steps = jax.lax.while_loop(unfinished, sweep, state)
        return x, (x, steps)

    return jax.lax.scan(solve, jnp.zeros_like(normal.c), penalties)[1]


@custom_jvp
def _revealed(normal: _Normal, penalty: Array, x: Array, is_sound: Array) -> Array:
    """Return a computed solution with the derivative that its optimality conditions give it."""
    del normal, penalty, is_sound
    return x


@_revealed.defjvp
@exact
def _revealed_jvp(primals: tuple, tangents: tuple) -> tuple:
    normal, _, _, is_sound = primals
    d_normal, d_penalty, *_ = tangents
    x = _revealed(*primals)
    support = x != 0
    rhs = d_normal.c - d_normal.g @ x - d_penalty * jnp.sign(x)
    # a factor rather than a `where`, so that NaN reaches reverse mode too
    rhs = jnp.where(support, rhs, 0) * jnp.where(is_sound, 1, jnp.nan)
    return x, _on_support(normal.g, support, rhs)


def _on_support(g: Array, support: Array, rhs: Array) -> Array:
    """Solve ``g x = rhs`` on the support, with x = rhs elsewhere."""
    both = support[:, None] & support[None, :]
    on_support = jnp.where(both, g, jnp.eye(len(g), dtype=g.dtype))
    factor = jax.scipy.linalg.cho_factor(jax.lax.stop_gradient(on_support), lower=True)

    def solve(_, b):
        return jax.scipy.linalg.cho_solve(factor, b)

    # g is symmetric along every path, so symmetric=True is right to every order
    return jax.lax.custom_linear_solve(lambda x: on_support @ x, rhs, solve, symmetric=True)
