"""Refusal of maps that send several points to one: by structure, by bounds, by trial points."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import CALLS, each, subjaxprs
from funcdl._source import title
from funcdl._typing import Array
from funcdl.density._control_flow.base import Analysis, NestedEquation
from funcdl.density._inversion.collisions import collision
from funcdl.density._inversion.propagation import Schedule
from funcdl.density._jacobian.parts import Plan, Singles, joined, replay, split
from funcdl.density._jacobian.segment_log_det import determinant_signs
from funcdl.density._jacobian.sign_proof import keeps_sign
from funcdl.density._primitives.local_jacobian import Everything, LocalJacobian
from funcdl.density._primitives.slope import Numbers
from funcdl.density._primitives.table import UNKNOWN, is_folding, is_pointwise, record
from funcdl.density._program.program import Equation, Segment, Variable

# An inverse that picked one of several pre-images would make densities wrong without notice, so
# all evidence is used, in the order of its certainty; a refusal names an operation and its line.
# 1. Structure refutes, at no cost: fewer than n numbers are alive, no perfect matching exists, or
#    an operation folds on the bounds of its operand.
# 2. Bounds of derivatives prove: if every diagonal block is one entry that keeps its sign, the
#    triangular map is monotone in each number while those before it are fixed.
# 3. Trial points refute and never prove: an injective differentiable map keeps its orientation, so
#    its determinant has one sign, and is not 0 everywhere. Maps of single numbers must not rise and
#    fall. Trials run while tracing if the segment reads constants only, and otherwise on the values
#    of the call, where the refusal is a NaN. Without evidence the map is assumed to be injective.


class NotInjectiveError(ValueError):
    """Several points have the same image, or no inverse of the operation is known."""


# trial points, for maps of single numbers and for others
_LINE = np.sinh(np.linspace(-4.1, 4.1, 47) + 0.013)
_SCALES = np.repeat([0.3, 1.0, 3.0], 4)


def location(equation: Equation) -> str:
    """Name the operation of an equation and its line in the user's code."""
    return f"{equation.name} at {equation.where}" if equation.where else equation.name


def require_square(analysis: Analysis) -> None:
    """Refuse a program that keeps fewer numbers than it was given.

    Raises:
        NotInjectiveError: If too few numbers are left after an operation, or if the Jacobian of a
            segment is singular by its sparsity.
    """
    whole = analysis.program
    n = sum(s.size for s in whole.main_in)
    for equation, alive in zip(whole.dynamic_equations(), whole.living[1:]):
        left = sum(s.size for s in alive)
        if left < n and all(s.is_real for s in alive):
            raise NotInjectiveError(
                f"only {left} of {n} numbers are left after {location(equation)}: the map is not "
                "injective"
            )
    for segment, plan in zip(analysis.segments, analysis.plans):
        if isinstance(plan, Plan) and plan.blocks is None:
            lines = ""
            if segment.equations:
                first, last = segment.equations[0], segment.equations[-1]
                lines = f" between {location(first)} and {location(last)}"
            raise NotInjectiveError(
                f"the Jacobian{lines} is singular by its sparsity alone: the map is not injective"
            )


def refuse_folds(analysis: Analysis, segment: Segment, route: Schedule) -> None:
    """Refuse a segment that propagation did not invert because an operation folds.

    Args:
        analysis: The analysis of the program.
        segment: The segment.
        route: The schedule of the segment, which leaves numbers unknown.

    Raises:
        NotInjectiveError: If an operation maps several numbers of its domain to one.
    """
    dynamic = analysis.program.dynamic
    for equation in segment.equations:
        result = route.known.get(next(iter(equation.results), None))  # an effect has no result
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
            clips = equation.name in ("max", "min") and len(operands) == 1  # at a constant
            folds = clips or is_folding(equation.name, equation.eqn.params, analysis.bounds(o))
            if folds and _is_lost(reads.get(place), result, mask):
                low, high = analysis.bounds(o)
                raise NotInjectiveError(
                    f"{location(equation)} is not injective on ({low:g}, {high:g}), where its "
                    "operand lies; restrict the operand, or sum over the pre-images with "
                    "pushforward_branches"
                )


def require_plan(plan: Plan | NestedEquation) -> Plan:
    """Return the plan of a segment that has to be solved; refuse a loop or branch.

    Raises:
        NotInjectiveError: If the segment is one equation with a log-determinant of its own, which
            propagation has not inverted.
    """
    if isinstance(plan, NestedEquation):
        raise NotInjectiveError(
            f"no inverse of {location(plan.equation)} ({plan.kind}) is known; supply one with "
            "density.rule"
        )
    return plan


def _is_lost(
    edges: LocalJacobian | Everything | None, result: np.ndarray, operand: np.ndarray
) -> bool:
    """Tell whether a known number of a result reads an unknown number of an operand."""
    if isinstance(edges, LocalJacobian):
        return bool((result.ravel()[edges.rows] & ~operand.ravel()[edges.cols]).any())
    is_elementwise = result.shape == operand.shape  # without a derivative, such as rounding
    return bool((result & ~operand).any()) if is_elementwise else not operand.all()


def is_proved(plan: Plan, analysis: Analysis) -> bool:
    """Tell whether bounds of the derivatives prove a segment injective; it must not jump."""
    bounds = analysis.bounds
    return all(_follows_its_derivative(e, analysis) for e in plan.segment.equations) and all(
        isinstance(p, Singles) and keeps_sign(p.paths, bounds) for p in plan.parts
    )


def _follows_its_derivative(equation: Equation, analysis: Analysis) -> bool:
    """Tell whether an equation changes continuously, and only where its derivative says so."""
    if _jumps(equation.eqn):
        return False
    if record(equation.name) is not UNKNOWN:
        return True
    # a loop may hide a rounding of x, and a custom derivative may leave out a number that it reads
    return all(
        values.keys() == slopes.keys() and all(_same(values[at], slopes[at]) for at in values)
        for values, slopes in zip(analysis.value_reads_of(equation), analysis.reads_of(equation))
    )


def _same(a: LocalJacobian | Everything, b: LocalJacobian | Everything) -> bool:
    if isinstance(a, LocalJacobian) and isinstance(b, LocalJacobian):
        return np.array_equal(a.rows, b.rows) and np.array_equal(a.cols, b.cols)
    return isinstance(b, Everything)


def _jumps(eqn: jex.JaxprEqn) -> bool:
    """Tell whether an equation, or one inside it, may change by a step or without a derivative."""
    entry = record(title(eqn))
    if entry.jumps or entry.flat:
        return True
    is_float = [
        [jnp.issubdtype(cast(Any, v.aval).dtype, jnp.inexact) for v in variables]
        for variables in (eqn.invars, eqn.outvars)
    ]
    if entry is not UNKNOWN:
        return any(is_float[0]) and not all(is_float[1])
    return any(_jumps(inner) for jaxpr in subjaxprs(eqn) for inner in jaxpr.eqns)


def maps_singly(plan: Plan) -> bool:
    """Tell whether each number of a segment is mapped by itself, decisions included."""
    names = {e.primitive.name for equation in plan.segment.equations for e in each(equation.eqn)}
    all_pointwise = all(is_pointwise(name) for name in names - {*CALLS, "custom_jvp_call"})
    return all_pointwise and plan.separate and all(isinstance(p, Singles) for p in plan.parts)


def trials(plan: Plan, bounds: Callable) -> np.ndarray:
    """Return points that may reveal a determinant that changes sign or is 0 everywhere.

    Args:
        plan: The plan of the segment.
        bounds: ``operand -> (low, high)``, within which the points lie.

    Returns:
        The points, of shape ``(points, n)``; sorted if each number is mapped by itself.
    """
    if maps_singly(plan):
        points = np.repeat(_LINE[:, None], plan.n, 1)
    else:
        points = _SCALES[:, None] * np.random.default_rng(0).normal(size=(len(_SCALES), plan.n))
    cuts = np.cumsum([s.size for s in plan.segment.inputs])[:-1]
    parts = zip(plan.segment.inputs, np.split(points, cuts, 1))
    points = np.concatenate([_within(part, *bounds(variable)) for variable, part in parts], 1)
    return np.sort(points, 0) if maps_singly(plan) else points


def _within(points: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map points into an interval."""
    if np.isfinite(low) and np.isfinite(high):
        return low + (high - low) / (1 + np.exp(-points))
    if np.isfinite(low):
        return low + np.abs(points)
    return high - np.abs(points) if np.isfinite(high) else points


def keeps_orientation(plan: Plan) -> bool:
    """Tell whether a block's determinant of both signs refutes that the map is injective.

    The sign of a single entry may depend on other numbers, as in (x, x y), which is injective
    except where x = 0.

    Args:
        plan: The plan of the segment.

    Returns:
        Whether both signs refute it.
    """
    return maps_singly(plan) or not any(isinstance(p, Singles) for p in plan.parts)


def tried(plan: Plan, origin: dict, outside: dict, x: Array) -> tuple[Array, Array]:
    """Evaluate a segment at a point.

    Args:
        plan: The plan of the segment.
        origin: The equation that computes each variable.
        outside: The values of the variables that the segment reads from elsewhere.
        x: The point, of shape ``(n,)``.

    Returns:
        The sign of the determinant of each block, 0 where it is only rounding error or not a
        number; and the image of the point.
    """
    values = outside | replay(plan.segment, outside, split(x, plan.segment.inputs))
    return determinant_signs(plan, values, origin), joined(values, plan.segment.outputs)


def runs(y: Numbers) -> tuple[Array, Array]:
    """Cut the columns of a table into runs that rise, or that fall if most steps fall.

    Args:
        y: The images of increasing points, one column per number.

    Returns:
        The run of each entry, and whether the runs of each column rise.
    """
    step, near = jnp.diff(y, axis=0), jnp.abs(y[1:]) + jnp.abs(y[:-1])
    least = 8 * jnp.finfo(y.dtype).eps * near
    rises = (step > least).sum(0) >= (step < -least).sum(0)
    breaks = jnp.where(rises[None], step < -least, step > least)
    return jnp.concatenate([jnp.zeros_like(breaks[:1], int), jnp.cumsum(breaks, 0)]), rises


def turns(y: Numbers) -> Array:
    """Tell in which columns two runs share heights; those on either side of a pole do not."""
    # sorted by height, runs that share no heights change exactly (number of runs - 1) times
    run, _ = runs(y)
    finite = jnp.isfinite(y)
    order = jnp.argsort(jnp.where(finite, y, jnp.inf), axis=0)
    run, finite = (jnp.take_along_axis(a, order, 0) for a in (run, finite))
    changes = ((jnp.diff(run, axis=0) != 0) & finite[1:] & finite[:-1]).sum(0)
    return changes > run.max(0)


def folds(plan: Plan, analysis: Analysis, outside: dict, x: Array) -> Array:
    """Tell whether trial points refute that a segment is injective.

    Args:
        plan: The plan of the segment.
        analysis: The analysis of its program.
        outside: The values of the variables that the segment reads from elsewhere.
        x: The point that was found, which is tried too.

    Returns:
        Whether the determinant of a block has both signs, or whether a map of single numbers rises
        and falls.
    """
    if not keeps_orientation(plan):
        return jnp.asarray(False)
    here, _ = tried(plan, analysis.origin, outside, x)
    points = jnp.asarray(trials(plan, analysis.bounds), x.dtype)
    sign, y = jax.lax.map(lambda p: tried(plan, analysis.origin, outside, p), points)
    has_both_signs = (here[None] * sign < 0).any()
    return has_both_signs | turns(y).any() if maps_singly(plan) else has_both_signs


def refuse_constant_folds(plan: Plan, analysis: Analysis, outside: dict) -> None:
    """Try points of a segment that reads constants only, while tracing.

    Args:
        plan: The plan of the segment.
        analysis: The analysis of its program.
        outside: The constants that the segment reads.

    Raises:
        NotInjectiveError: If the determinant is 0 at all points or has both signs. If each number
            is mapped by itself, or two points with the same image are found, the message names
            them.
    """
    points = np.asarray(trials(plan, analysis.bounds), plan.segment.inputs[0].dtype)
    with jax.ensure_compile_time_eval():
        both = jax.jit(jax.vmap(lambda p: tried(plan, analysis.origin, outside, p)))
        sign, y = map(np.asarray, both(points))
        turning = np.asarray(turns(y)) if maps_singly(plan) else np.zeros(plan.n, bool)
        pairs = [_pair(points[:, 0], y[:, k]) for k in np.flatnonzero(turning)]
    line = location(plan.segment.equations[-1])
    # where a product under- or overflows, a determinant of 0 says nothing about the map
    finite = (np.isfinite(y) & (np.abs(y) >= np.finfo(y.dtype).tiny)).all(1)
    if finite.sum() > 5 and (sign[finite] == 0).all(0).any():
        raise NotInjectiveError(
            f"the Jacobian is singular at every trial point, up to {line}: the map is not injective"
        )
    flips = (sign.max(0, initial=0) > 0) & (sign.min(0, initial=0) < 0)
    evidence = "the determinant of its Jacobian has both signs"
    if not turning.any() and not (keeps_orientation(plan) and flips.any()):
        same = collision(plan, analysis, outside, points)
        if same is None:
            return
        a, b = (np.array2string(p, precision=4, separator=", ") for p in same)
        evidence = f"{a} and {b} have the same image"
    for pair in filter(None, pairs):
        evidence = f"{pair[0]:.4g} and {pair[1]:.4g} have the same image"
    raise NotInjectiveError(
        f"the map is not injective: {evidence}, up to {line}; restrict it, or sum over the "
        "pre-images with pushforward_branches"
    )


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Return two numbers on different runs with the same image, by linear interpolation."""
    run = np.asarray(runs(y[:, None])[0])[:, 0]
    finite = np.isfinite(y)
    for other in range(run.max() + 1):
        on = finite & (run == other)
        order = np.argsort(y[on])
        heights, points = y[on][order], x[on][order]
        for i in np.flatnonzero(finite & ~on):
            if len(heights) > 1 and heights[0] <= y[i] <= heights[-1]:
                return float(x[i]), float(np.interp(y[i], heights, points))
    return None
