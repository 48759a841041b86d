"""The log-determinant of a planned segment, the solver of its blocks, their signs."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import Array
from funcdl.density._jacobian.dense_log_det import log_abs_det
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
from funcdl.density._primitives.slope import log_magnitude


def log_det(plan: Plan, values: dict, origin: dict) -> Array:
    """Compute the log-determinant of a segment.

    Args:
        plan: Of the segment.
        values: Of all variables.
        origin: The equation that computes each variable.

    Returns:
        A scalar.
    """
    dtype = _tree.wide(jnp.result_type(*(s.dtype for s in plan.segment.inputs)))
    if plan.blocks is None:
        return jnp.full((), -jnp.inf, dtype)
    total = jnp.zeros((), dtype)
    for part in plan.parts:
        if isinstance(part, Singles):
            for (_, at), slope in zip(part.paths.outputs, entries(part.paths, values, origin)):
                logs = jnp.asarray(log_magnitude(slope), dtype)
                total = total + (logs.sum() if logs.ndim else logs * len(at))
        elif isinstance(part, Bottleneck):
            total = total + _lemma(update_of(plan, part, values, origin))
        else:
            total += sum(_log_dets(m) for m in columns(plan, part, values))
    return total


def _log_dets(matrices) -> Array | float:
    """The sum of log-determinants; of constants it is computed here, in float64."""
    if not isinstance(matrices, np.ndarray):
        return log_abs_det(matrices.astype(_tree.wide(matrices.dtype))).sum()
    scaled = matrices / np.maximum(np.abs(matrices).max(-1, keepdims=True), 1e-300)
    smallest = np.linalg.svd(scaled.astype("float64"), compute_uv=False).min(-1)
    if (smallest <= jnp.finfo(matrices.dtype).eps).any():
        return -np.inf
    return float(np.linalg.slogdet(matrices.astype("float64"))[1].sum())


def _lemma(update: Update) -> Array:
    r"""Return :math:`\log|\det D| + \log|\det(I - H + V D^{-1} U)|` (Sylvester, 1851)."""
    return update.log.sum() + log_abs_det(_without_rounding(*update.core()))


def jacobian_blocks(plan: Plan, values: dict, origin: dict) -> Callable:
    """Return the solver of the Jacobian's diagonal blocks.

    Args:
        plan: Of the segment.
        values: At the point.
        origin: The equation that computes each variable.

    Returns:
        ``(n,) right side, by row -> (n,), by column``; exact if ``plan.separate``.
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
        found = jnp.zeros_like(b)
        for piece in pieces:
            at, x = piece(b)
            found = found.at[at].set(x.astype(b.dtype))
        return found

    return solve


def _scaled(at: tuple, inverse: Array, b: Array) -> tuple:
    rows, cols = at
    return cols, b[rows] * inverse


def _woodbury(match: np.ndarray, update: Update, b: Array) -> tuple:
    inverse = update.sign * jnp.exp(-update.log)
    core, _ = update.core()
    through = jnp.linalg.solve(core, update.v @ (inverse * b))
    return match, inverse * (b - update.u @ through)


def _block_solve(at: tuple, matrix: Array, b: Array) -> tuple:
    rows, cols = at
    return cols.ravel(), jnp.linalg.solve(matrix, b[rows][..., None])[..., 0].ravel()


def determinant_signs(plan: Plan, values: dict, origin: dict) -> Array:
    """Return the sign of the determinant of each diagonal block.

    Args:
        plan: Of the segment.
        values: At the point.
        origin: The equation that computes each variable.

    Returns:
        A vector; 0 where a determinant is rounding, or not a number.
    """
    found = []
    finite = jnp.isfinite(joined(values, plan.segment.outputs))
    for part in plan.parts:
        if isinstance(part, Singles):
            _, sign = magnitudes(part.paths, values, origin, plan.segment.inputs[0].dtype)
            found.append(jnp.where(finite[part.rows], sign, 0))
        elif isinstance(part, Bottleneck):
            update = update_of(plan, part, values, origin)
            core, bound = update.core()
            core = _without_rounding(core, bound)
            found.append(jnp.where(finite.all(), update.sign.prod() * _sign(core), 0)[None])
        else:
            for (rows, _), matrix in zip(part.blocks, columns(plan, part, values)):
                found.append(jnp.where(finite[rows].all(-1), _sign(matrix), 0))
    sign = jnp.concatenate(found)
    return jnp.where(jnp.isfinite(sign), sign, 0)


def _without_rounding(core: Array, bound: Array) -> Array:
    """Set to 0 what is only the rounding of the terms that it is the sum of."""
    return jnp.where(jnp.abs(core) <= 4 * jnp.finfo(core.dtype).eps * bound, 0.0, core)


def _sign(a) -> Array:
    a = jnp.asarray(a)
    sign = jnp.linalg.slogdet(a).sign
    return jnp.where(jnp.isfinite(log_abs_det(a)), sign, 0)
