"""The log-determinant of a planned segment, and the solves and signs of its diagonal blocks."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import Array
from funcdl.density._jacobian.dense_log_det import log_abs_det, zeroed
from funcdl.density._jacobian.entries import entries
from funcdl.density._jacobian.parts import (
    Bottleneck,
    Plan,
    Singles,
    Update,
    columns,
    joined,
    magnitudes,
    update_of,
)
from funcdl.density._primitives.slope import Numbers, log_magnitude

# Invariant: a part of a plan owns some rows and the same number of columns, which no other part
# has. The log-determinant is the sum over parts, the solve writes each part's columns once, and
# the signs are listed block by block.
# Single entries are summed as logarithms and never multiplied, so saturated functions (tanh at
# 100) give a finite result. Dense blocks have no such form; a pivot that is only rounding gives
# -inf instead of noise (``log_abs_det``). Sums that cancel are treated alike: an entry of the
# lemma's matrix that is below the rounding of its terms counts as 0.
# Determinants of constant matrices are computed here by NumPy in float64, whatever the dtype of x,
# because they cost nothing at run time.
# All three functions read one plan, so that the log-determinant, the Newton steps and the test of
# injectivity cannot disagree about the structure.


def log_det(plan: Plan, values: dict, origin: dict) -> Array:
    """Compute the log-determinant of a segment.

    Args:
        plan: The plan of the segment.
        values: The values of all variables.
        origin: The equation that computes each variable.

    Returns:
        The log-determinant, a scalar of at least float32.
    """
    dtype = _tree.wide(jnp.result_type(*(s.dtype for s in plan.segment.inputs)))
    if plan.blocks is None:
        return jnp.full((), -jnp.inf, dtype)
    total = jnp.zeros((), dtype)
    for part in plan.parts:
        if isinstance(part, Singles):
            exact = part.exact()
            marked = entries(exact, values, origin, is_marked=True)
            for (_, at), slope in zip(exact.outputs, marked):
                logs = jnp.asarray(log_magnitude(slope), dtype)
                total = total + (logs.sum() if logs.ndim else logs * len(at))
        elif isinstance(part, Bottleneck):
            total = total + _lemma(update_of(plan, part, values, origin))
        else:
            total += sum(_log_dets(m) for m in columns(plan, part, values))
    return total


def _log_dets(matrices: Array | np.ndarray) -> Array | float:
    """Sum the log-determinants of matrices; those of constants are computed here, in float64."""
    if not isinstance(matrices, np.ndarray):
        return log_abs_det(matrices.astype(_tree.wide(matrices.dtype))).sum()
    scaled = matrices / np.maximum(np.abs(matrices).max(-1, keepdims=True), 1e-300)
    smallest = np.linalg.svd(scaled.astype("float64"), compute_uv=False).min(-1)
    if (smallest <= jnp.finfo(matrices.dtype).eps).any():
        return -np.inf
    return float(np.linalg.slogdet(matrices.astype("float64"))[1].sum())


def _lemma(update: Update) -> Array:
    r"""Return :math:`\log|\det D| + \log|\det(I - H + V D^{-1} U)|` (Sylvester, 1851).

    The pivots of D stay in the small determinant; see ``Update``.
    """
    total = update.log.sum() + log_abs_det(_without_rounding(*update.core()))
    return jnp.where(_cancels(update), -jnp.inf, total)


def _cancels(update: Update) -> Array:
    """Tell whether the lemma without pivots, where it is sound, has a sum that is only rounding."""
    if not update.pivots.size:
        return jnp.asarray(False)
    update = Update(*map(jax.lax.stop_gradient, update))
    others = jnp.where(update.sign == 0, -jnp.inf, update.log).max()
    least, eps = jnp.abs(update.values).min(), jnp.finfo(update.log.dtype).eps
    is_sound = (least > 0) & (jnp.log(jnp.where(least > 0, least, 1)) > others + np.log(eps) / 2)
    log = update.log.at[update.pivots].set(jnp.log(jnp.abs(update.values)))
    sign = update.sign.at[update.pivots].set(jnp.sign(update.values))
    plain = update._replace(pivots=jnp.zeros(0, int), log=log, sign=sign)
    return is_sound & (log_abs_det(_without_rounding(*plain.core())) == -jnp.inf)


def jacobian_blocks(plan: Plan, values: dict, origin: dict) -> Callable:
    """Return the solver of a system with the Jacobian's diagonal blocks.

    Args:
        plan: The plan of the segment.
        values: The values of all variables at the point.
        origin: The equation that computes each variable.

    Returns:
        A function from the right side, ``(n,)`` by row, to the solution, ``(n,)`` by column. It
        solves with the whole Jacobian if ``plan.separate``.
    """
    pieces = []
    for part in plan.parts:
        if isinstance(part, Singles):
            dtype = plan.segment.inputs[0].dtype
            log, sign = magnitudes(part.paths, values, origin, dtype)
            pieces.append(partial(_scaled, (part.rows, part.cols), sign * jnp.exp(-log)))
        elif isinstance(part, Bottleneck):
            pieces.append(partial(_woodbury, part.match, update_of(plan, part, values, origin)))
        else:
            for at, matrix in zip(part.blocks, columns(plan, part, values)):
                pieces.append(partial(_block_solve, at, jnp.asarray(matrix)))

    def solve(b: Array) -> Array:
        solution = jnp.zeros_like(b)
        for piece in pieces:
            cols, x = piece(b)
            solution = solution.at[cols].set(x.astype(b.dtype), unique_indices=True)
        return solution

    return solve


def _scaled(at: tuple, inverse: Array, b: Array) -> tuple:
    rows, cols = at
    return cols, b[rows] * inverse


def _woodbury(match: np.ndarray, update: Update, b: Array) -> tuple:
    """Solve with a diagonal matrix and its low-rank update (Woodbury, 1950)."""
    inverse, pivots = update.inverse(), update.pivots
    core, _ = update.core()
    right = jnp.concatenate([b[pivots], update.v @ (inverse * b)])
    solution = jnp.linalg.solve(core, right)
    x = inverse * (b - update.u @ solution[pivots.size :])
    return match, x.at[pivots].set(solution[: pivots.size], unique_indices=True)


def _block_solve(at: tuple, matrix: Array, b: Array) -> tuple:
    rows, cols = at
    return cols.ravel(), jnp.linalg.solve(matrix, b[rows][..., None])[..., 0].ravel()


def determinant_signs(plan: Plan, values: dict, origin: dict) -> Array:
    """Return the sign of the determinant of each diagonal block.

    Args:
        plan: The plan of the segment.
        values: The values of all variables at the point.
        origin: The equation that computes each variable.

    Returns:
        A vector of signs; 0 where a determinant is only rounding error or not a number.
    """
    signs = []
    finite = jnp.isfinite(joined(values, plan.segment.outputs))
    for part in plan.parts:
        if isinstance(part, Singles):
            _, sign = magnitudes(part.paths, values, origin, plan.segment.inputs[0].dtype)
            signs.append(jnp.where(finite[part.rows], sign, 0))
        elif isinstance(part, Bottleneck):
            update = update_of(plan, part, values, origin)
            core, bound = update.core()
            core = _without_rounding(core, bound)
            others = jnp.ones_like(update.sign).at[update.pivots].set(0, unique_indices=True)
            sign = jnp.where(others > 0, update.sign, 1).prod() * _sign(core)
            signs.append(jnp.where(finite.all() & ~_cancels(update), sign, 0)[None])
        else:
            for (rows, _), matrix in zip(part.blocks, columns(plan, part, values)):
                signs.append(jnp.where(finite[rows].all(-1), _sign(matrix), 0))
    sign = jnp.concatenate(signs)
    return jnp.where(jnp.isfinite(sign), sign, 0)


def _without_rounding(core: Array, bound: Array) -> Array:
    """Set entries to 0 where they do not exceed the rounding error of their terms."""
    # they keep their derivatives: an entry such as 3 x^2 at 0 matters for the second one
    is_rounding = jnp.abs(core) <= 4 * jnp.finfo(core.dtype).eps * bound
    return zeroed(core, is_rounding)


def _sign(a: Numbers) -> Array:
    """Return the signs of determinants, 0 for a matrix that is singular to working precision."""
    a = jnp.asarray(a)
    sign = jnp.linalg.slogdet(a).sign
    return jnp.where(jnp.isfinite(log_abs_det(a)), sign, 0)
