"""The lasso by coordinate descent on the Gram matrix, stopped by its duality gap."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal
from funcdl._typing import Array, Bool, Float, Int, Scalar
from funcdl.linalg._gram import gram_in_range
from funcdl.linalg._least_squares import check_rows


class Lasso(NamedTuple):
    r"""A sparse solution of :math:`\min_x \frac1{2m} \|A x - b\|^2 + \lambda \|x\|_1`.

    Attributes:
        x: ``(n,)``.
        gap: Duality gap: the objective is at most that far above its minimum.
        converged: Whether ``gap <= tol * b @ b / m``.
        steps: How many sweeps over the coordinates it took.
    """

    x: Array
    gap: Scalar
    converged: Bool[Array, ""]
    steps: Int[Array, ""]


class _Normal(NamedTuple):
    """All that the lasso needs to know of A and b."""

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
    What did not converge has NaN derivatives, and so has a support whose columns are dependent.
    There is no intercept: for one, center A and b.

    Args:
        a: ``(m, n)``.
        b: ``(m,)``.
        penalty: At least 0; from ``max |Aᵀ b| / m`` on all of x is 0. At 0 no gap can prove a
            solution: use ``least_squares``.
        tol: Of the duality gap, relative to ``b @ b / m``; by default 1e-4 as scikit-learn, but
            not below the rounding of the dtype.
        max_steps: Sweeps over all coordinates.

    Returns:
        Solution, duality gap, whether it converged, and the sweeps.

    Raises:
        TypeError: If ``a`` or ``b`` is not of real floats.
        ValueError: If the rows do not match, values are not finite, or the penalty is not one
            number >= 0.

    Source: Tibshirani (1996); Friedman, Hastie and Tibshirani, "Regularization paths for
    generalized linear models via coordinate descent" (2010).

    >>> from funcdl import linalg
    >>> linalg.lasso(jnp.eye(2), jnp.asarray([3.0, 0.5]), 0.5).x.tolist()
    [2.0, 0.0]
    """
    _check.penalty("penalty", penalty)
    a, b, tol = _checked(a, b, tol, max_steps)
    found = _path(a, b, jnp.asarray(penalty, a.dtype)[None], tol, max_steps)
    return jax.tree.map(lambda x: x[0], found)


@exact
def lasso_path(
    a: Float[Array, "m n"],
    b: Float[Array, " m"],
    penalties: Float[Array, " p"],
    *,
    tol: float | int | None = None,
    max_steps: int = 1000,
) -> Lasso:
    r"""Solve the lasso for several penalties, each from the solution before.

    Args:
        a: ``(m, n)``.
        b: ``(m,)``.
        penalties: ``(p,)``, best in descending order.
        tol: As in ``lasso``.
        max_steps: As in ``lasso``, for each.

    Returns:
        As ``lasso``, a leading axis p on every field.

    Raises:
        TypeError: If an argument is not of real floats.
        ValueError: If the rows do not match, values are not finite, or a penalty is negative.

    >>> from funcdl import linalg
    >>> b, penalties = jnp.asarray([3.0, 0.5]), jnp.asarray([1.0, 0.5])
    >>> linalg.lasso_path(jnp.eye(2), b, penalties).x.tolist()
    [[1.0, 0.0], [2.0, 0.0]]
    """
    penalties = _check.real_array("penalties", penalties, 1)
    _check.not_negative("penalty", penalties)
    _check.finite("penalties", penalties)
    a, b, tol = _checked(a, b, tol, max_steps)
    return _path(a, b, penalties.astype(a.dtype), tol, max_steps)


def _checked(a, b, tol, max_steps: int) -> tuple[Array, Array, Array]:
    a, b = check_rows(a, b)
    _check.finite("a", a)
    _check.finite("b", b)
    _check.integer_in("max_steps", max_steps, 1, 2**31 - 1)
    floor = 4 * jnp.finfo(a.dtype).eps
    return a, b, jnp.maximum(jnp.asarray(1e-4 if tol is None else tol, a.dtype), floor)


@partial(jax.jit, static_argnums=4)
def _path(a: Array, b: Array, penalties: Array, tol, max_steps: int) -> Lasso:
    """Solve in units in which squares of A and b stay in range."""
    m, unit_b = len(b), power_of_two(b)
    g, unit_a = gram_in_range(a)
    b = b / unit_b
    normal = _Normal(g / m, a.T @ b / unit_a / m, b @ b / m)

    penalties = penalties * (1 / unit_a) * (1 / unit_b)
    x, steps = _descend(*jax.lax.stop_gradient((normal, penalties, tol)), max_steps)
    each = partial(jax.vmap, in_axes=(None, 0, 0))
    converged = each(_gap)(normal, penalties, x) <= tol * normal.power
    x = jax.vmap(_revealed, in_axes=(None, 0, 0, 0))(normal, penalties, x, converged)
    gap = each(_gap)(normal, penalties, x) * unit_b * unit_b
    return Lasso(x * (unit_b / unit_a), gap, converged, steps)


@exact
def _gap(normal: _Normal, penalty, x: Array) -> Scalar:
    """Bound how far the objective is above its minimum, by the scaled residual as a dual point."""
    return _gap_from(normal, penalty, x, normal.c - normal.g @ x)


def _gap_from(normal: _Normal, penalty, x: Array, correlation: Array) -> Scalar:
    square = normal.power - x @ (normal.c + correlation)  # |b - A x|² / m
    peak = jnp.abs(correlation).max()
    shrink = jnp.where(peak > penalty, penalty / jnp.where(peak > 0, peak, 1), 1)
    along = normal.power - normal.c @ x  # bᵀ(b - A x) / m
    return 0.5 * (1 + shrink**2) * square + penalty * jnp.abs(x).sum() - shrink * along


@exact
def _descend(normal: _Normal, penalties: Array, tol, max_steps: int) -> tuple[Array, Array]:
    """Find ``(p, n)`` solutions, each from the one before, and how many sweeps each took."""
    diagonal = jnp.diag(normal.g)
    inverse = reciprocal(diagonal)  # a column of zeros stays out

    def solve(start, penalty):
        def sweep(state):
            x, correlation, step = state
            moving = (x != 0) | (jnp.abs(correlation) > penalty)
            order = jnp.argsort(~moving, stable=True)

            def move(i, state):
                x, correlation = state
                j = order[i]
                wish = correlation[j] + diagonal[j] * x[j]
                new = jnp.sign(wish) * jnp.maximum(jnp.abs(wish) - penalty, 0) * inverse[j]
                return x.at[j].set(new), correlation - normal.g[j] * (new - x[j])

            x, _ = jax.lax.fori_loop(0, moving.sum(), move, (x, correlation))
            return x, normal.c - normal.g @ x, step + 1  # afresh: rounding does not pile up

        def unfinished(state):
            x, correlation, step = state
            gap = _gap_from(normal, penalty, x, correlation)
            return (step < max_steps) & ~(gap <= tol * normal.power)

        state = start, normal.c - normal.g @ start, jnp.zeros((), jnp.int32)
        x, _, steps = jax.lax.while_loop(unfinished, sweep, state)
        return x, (x, steps)

    return jax.lax.scan(solve, jnp.zeros_like(normal.c), penalties)[1]


@jax.custom_jvp
def _revealed(normal: _Normal, penalty, x: Array, sound: Array) -> Array:
    """Return a solution that was found, with the derivative that its conditions give it."""
    del normal, penalty, sound
    return x


@_revealed.defjvp
@exact
def _revealed_jvp(primals, tangents):
    normal, _, _, sound = primals
    d_normal, d_penalty, *_ = tangents
    x = _revealed(*primals)
    support = x != 0
    rhs = d_normal.c - d_normal.g @ x - d_penalty * jnp.sign(x)
    rhs = jnp.where(support, rhs, 0) * jnp.where(sound, 1, jnp.nan)  # a factor: also in reverse
    return x, _on_support(normal.g, support, rhs)


def _on_support(g: Array, support: Array, rhs: Array) -> Array:
    """Solve ``g x = rhs`` on the support, x = rhs elsewhere."""
    both = support[:, None] & support[None, :]
    kept = jnp.where(both, g, jnp.eye(len(g), dtype=g.dtype))
    factor = jax.scipy.linalg.cho_factor(jax.lax.stop_gradient(kept), lower=True)

    def solve(_, b):
        return jax.scipy.linalg.cho_solve(factor, b)

    # g is symmetric along every path, so symmetric=True is right to every order
    return jax.lax.custom_linear_solve(lambda x: kept @ x, rhs, solve, symmetric=True)
