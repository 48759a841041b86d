"""Refusal of maps that send several points to one: by structure, by bounds, by trial."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import CALLS, each
from funcdl._typing import Array
from funcdl.density._control_flow.base import Lifted
from funcdl.density._inversion.propagation import Schedule
from funcdl.density._jacobian.parts import Plan, Singles, joined, replay, split
from funcdl.density._jacobian.segment_log_det import determinant_signs
from funcdl.density._jacobian.sign_proof import keeps_sign
from funcdl.density._primitives.local_jacobian import LocalJacobian
from funcdl.density._primitives.table import is_folding, is_pointwise, record
from funcdl.density._program.program import Variable


class NotInjectiveError(ValueError):
    """Several points have the same image, or the operation has no inverse that is known."""


# points to try, for maps of single numbers and for others
_LINE = np.sinh(np.linspace(-4.1, 4.1, 47) + 0.013)
_SCALES = np.repeat([0.3, 1.0, 3.0], 4)


def at(equation) -> str:
    """Name an operation and its line."""
    return f"{equation.name} at {equation.where}" if equation.where else equation.name


def require_square(analysis) -> None:
    """Refuse a program that keeps fewer numbers than went in.

    Raises:
        NotInjectiveError: Names the operation after which too few are left.
    """
    whole = analysis.program
    n = sum(s.size for s in whole.main_in)
    equations = [s for s in whole.equations if any(o in whole.dynamic for o in s.variables)]
    for equation, alive in zip(equations, whole.living[1:]):
        left = sum(s.size for s in alive)
        if left < n and all(s.is_real for s in alive):
            raise NotInjectiveError(
                f"only {left} of {n} numbers are left after {at(equation)}: the map is not "
                "injective"
            )
    for segment, plan in zip(analysis.segments, analysis.plans):
        if isinstance(plan, Plan) and plan.blocks is None:
            line = (
                f" between {at(segment.equations[0])} and {at(segment.equations[-1])}"
                if segment.equations
                else ""
            )
            raise NotInjectiveError(
                f"the Jacobian{line} is singular by its sparsity alone: the map is not injective"
            )


def refuse_folds(analysis, plan, segment, route: Schedule) -> None:
    """Refuse a segment that propagation did not invert because an operation folds.

    Raises:
        NotInjectiveError: Names the operation.
    """
    dynamic = analysis.program.dynamic
    for equation in segment.equations:
        result = route.known.get(equation.results[0])
        if result is None or not result.any():
            continue
        operands = {
            k: o
            for k, o in enumerate(equation.operands)
            if isinstance(o, Variable) and o in dynamic and o.is_float
        }
        reads = analysis.reads_of(equation)[0]
        for place, o in operands.items():
            mask = route.known.get(o, np.zeros(o.shape, bool))
            alone = equation.name in ("max", "min") and len(operands) == 1
            folds = alone or is_folding(equation.name, equation.eqn.params, analysis.bounds(o))
            if folds and _is_lost(reads.get(place), result, mask):
                low, high = analysis.bounds(o)
                raise NotInjectiveError(
                    f"{at(equation)} is not injective on ({low:g}, {high:g}), where its operand "
                    "lies; "
                    "restrict the operand, or sum over the pre-images with pushforward_branches"
                )
    if isinstance(plan, Lifted):
        raise NotInjectiveError(f"no inverse is known of {at(plan.equation)}: {plan.kind}")


def _is_lost(edges, result: np.ndarray, operand: np.ndarray) -> bool:
    """Tell whether a known number of a result reads an unknown one of an operand."""
    if isinstance(edges, LocalJacobian):
        return bool((result.ravel()[edges.rows] & ~operand.ravel()[edges.cols]).any())
    same = result.shape == operand.shape  # without a slope: a rounding
    return bool((result & ~operand).any()) if same else not operand.all()


def is_proved(plan: Plan, bounds: Callable) -> bool:
    """Tell whether bounds of the derivatives prove a segment injective: it may not jump."""
    jumps = any(
        record(s.name).jumps or s.results[0].is_float is False for s in plan.segment.equations
    )
    return not jumps and all(
        isinstance(p, Singles) and keeps_sign(p.paths, bounds) for p in plan.parts
    )


def maps_singly(plan: Plan) -> bool:
    """Tell whether each number of a segment is mapped by itself, decisions included."""
    names = {e.primitive.name for equation in plan.segment.equations for e in each(equation.eqn)}
    at_place = all(is_pointwise(name) for name in names - {*CALLS, "custom_jvp_call"})
    return at_place and plan.separate and all(isinstance(p, Singles) for p in plan.parts)


def trials(plan: Plan, bounds: Callable) -> np.ndarray:
    """Points at which a determinant that changes its sign, or is 0 everywhere, may show."""
    if maps_singly(plan):
        points = np.repeat(_LINE[:, None], plan.n, 1)
    else:
        points = _SCALES[:, None] * np.random.default_rng(0).normal(size=(len(_SCALES), plan.n))
    cuts = np.cumsum([s.size for s in plan.segment.inputs])[:-1]
    parts = zip(plan.segment.inputs, np.split(points, cuts, 1))
    points = np.concatenate([_within(part, *bounds(variable)) for variable, part in parts], 1)
    return np.sort(points, 0) if maps_singly(plan) else points


def _within(points: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bring points into an interval."""
    if np.isfinite(low) and np.isfinite(high):
        return low + (high - low) / (1 + np.exp(-points))
    if np.isfinite(low):
        return low + np.abs(points)
    return high - np.abs(points) if np.isfinite(high) else points


def keeps_orientation(plan: Plan) -> bool:
    """Tell whether an injective map could not have both signs of a block's determinant.

    The sign of a single entry beside others may depend on them, as in (x, x y): that map is
    injective but where x = 0.

    Args:
        plan: Of a segment.

    Returns:
        Whether both signs refute it.
    """
    return maps_singly(plan) or not any(isinstance(p, Singles) for p in plan.parts)


def tried(plan: Plan, origin: dict, outside: dict, x: Array) -> tuple[Array, Array]:
    """The sign of each block's determinant, 0 where it is rounding or not a number; the image."""
    values = outside | replay(plan.segment, outside, split(x, plan.segment.inputs))
    return determinant_signs(plan, values, origin), joined(values, plan.segment.outputs)


def runs(y) -> tuple[Array, Array]:
    """Cut the columns of a table into runs that rise, or fall, whichever most steps do."""
    step, near = jnp.diff(y, axis=0), jnp.abs(y[1:]) + jnp.abs(y[:-1])
    least = 8 * jnp.finfo(y.dtype).eps * near
    rises = (step > least).sum(0) >= (step < -least).sum(0)
    breaks = jnp.where(rises[None], step < -least, step > least)
    return jnp.concatenate([jnp.zeros_like(breaks[:1], int), jnp.cumsum(breaks, 0)]), rises


def turns(y) -> Array:
    """Tell in which columns two runs have heights in common; those beside a pole have not."""
    run, _ = runs(y)
    finite = jnp.isfinite(y)
    order = jnp.argsort(jnp.where(finite, y, jnp.inf), axis=0)
    run, finite = (jnp.take_along_axis(a, order, 0) for a in (run, finite))
    changes = ((jnp.diff(run, axis=0) != 0) & finite[1:] & finite[:-1]).sum(0)
    return changes > run.max(0)


def folds(plan: Plan, analysis, outside: dict, x: Array) -> Array:
    """Try points around x.

    Returns:
        Whether a block's determinant has both signs, which that of an injective map with a
        derivative has not, for it keeps orientation; or whether a map of single numbers rises and
        falls.
    """
    if not keeps_orientation(plan):
        return jnp.asarray(False)
    here, _ = tried(plan, analysis.origin, outside, x)
    points = jnp.asarray(trials(plan, analysis.bounds), x.dtype)
    sign, y = jax.lax.map(lambda p: tried(plan, analysis.origin, outside, p), points)
    found = (here[None] * sign < 0).any()
    return found | turns(y).any() if maps_singly(plan) else found


def refuse_constant_folds(plan: Plan, analysis, outside: dict) -> None:
    """Try a segment that reads constants alone, before the program runs.

    Args:
        plan: Of the segment.
        analysis: Of its program.
        outside: Constants that its equations read.

    Raises:
        NotInjectiveError: If the determinant is 0, or has both signs; of numbers that are mapped
            singly it names two with the same image.
    """
    points = np.asarray(trials(plan, analysis.bounds), plan.segment.inputs[0].dtype)
    with jax.ensure_compile_time_eval():
        both = jax.jit(jax.vmap(lambda p: tried(plan, analysis.origin, outside, p)))
        sign, y = map(np.asarray, both(points))
        turning = np.asarray(turns(y)) if maps_singly(plan) else np.zeros(plan.n, bool)
        pairs = [_pair(points[:, 0], y[:, k]) for k in np.flatnonzero(turning)]
    line = at(plan.segment.equations[-1])
    finite = np.isfinite(y).all(1)
    if finite.sum() > 5 and (sign[finite] == 0).all(0).any():
        raise NotInjectiveError(f"the Jacobian is singular wherever it was tried, up to {line}")
    flips = (sign.max(0, initial=0) > 0) & (sign.min(0, initial=0) < 0)
    if not turning.any() and not (keeps_orientation(plan) and flips.any()):
        return
    told = "the determinant of its Jacobian has both signs"
    for pair in filter(None, pairs):
        told = f"{pair[0]:.4g} and {pair[1]:.4g} have the same image"
    raise NotInjectiveError(
        f"the map is not injective: {told}, up to {line}; restrict it, or sum over the pre-images "
        "with pushforward_branches"
    )


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Two abscissas of the same height, on different runs."""
    run = np.asarray(runs(y[:, None])[0])[:, 0]
    good = np.isfinite(y)
    for other in range(run.max() + 1):
        on = good & (run == other)
        order = np.argsort(y[on])
        heights, places = y[on][order], x[on][order]
        for i in np.flatnonzero(good & ~on):
            if len(heights) > 1 and heights[0] <= y[i] <= heights[-1]:
                return float(x[i]), float(np.interp(y[i], heights, places))
    return None
