"""The inverse of a program: segment by segment backward, by propagation where that suffices."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from funcdl._typing import Array
from funcdl.density._control_flow.base import Analysis, NestedEquation
from funcdl.density._inversion import injectivity, newton, sweeps
from funcdl.density._inversion.order import order
from funcdl.density._inversion.propagation import Schedule, Setting, follow, schedule, within
from funcdl.density._inversion.sweeps import Sweep, sweep
from funcdl.density._jacobian.parts import Plan, joined, split
from funcdl.density._program.program import Segment, Variable


def invert(
    analysis: Analysis, targets: Sequence, args: Sequence, is_replaced: bool = False
) -> tuple[list, Array]:
    """Find the main inputs that give the main outputs.

    Args:
        analysis: The analysis of the program.
        targets: One value per main output.
        args: One value per input; the values at the main inputs are not read.
        is_replaced: Whether numbers outside of the image are replaced by others.

    Returns:
        One value per main input, NaN where no root was found; and whether the targets are in the
        image of every operation that was inverted.

    Raises:
        NotInjectiveError: If the structure shows that several inputs give the same outputs.
    """
    whole = analysis.program
    injectivity.require_square(analysis)
    values = whole.captured | {s: x for s, x in zip(whole.inputs, args) if s not in whole.main_in}
    for equation in whole.equations:
        if not any(s in whole.dynamic for s in equation.variables):
            operands = [values[o] if isinstance(o, Variable) else o for o in equation.operands]
            values.update(zip(equation.results, equation.evaluate(*operands)))
    reached = jnp.asarray(True)
    values.update((s, jnp.asarray(y)) for s, y in zip(whole.main_out, targets))
    for plan, segment in reversed(list(zip(analysis.plans, analysis.segments))):
        values, in_image = _inverted(analysis, plan, segment, (values, is_replaced))
        reached &= in_image
    return [values[s] for s in whole.main_in], reached


def route(analysis: Analysis, segment: Segment, is_replaced: bool = False) -> Schedule:
    """Return the schedule that inverts a segment, as far as propagation comes."""
    return schedule(_setting(analysis, segment, is_replaced))


def _setting(analysis: Analysis, segment: Segment, is_replaced: bool) -> Setting:
    return Setting(
        segment=segment,
        dynamic=analysis.program.dynamic,
        reads_of=analysis.reads_of,
        value_reads_of=analysis.value_reads_of,
        bounds=analysis.bounds,
        static=analysis.static,
        nested=partial(analysis.nested, is_replaced=is_replaced),
    )


def _sweep(
    analysis: Analysis,
    plan: Plan | NestedEquation,
    segment: Segment,
    is_replaced: bool = False,
) -> Sweep | None:
    """Return the sweep that inverts a triangular segment which propagation cannot invert."""
    if not isinstance(plan, Plan) or plan.separate or plan.blocks is None:
        return None
    return sweep(_setting(analysis, segment, is_replaced), plan, order(plan).level)


def iterates(analysis: Analysis) -> bool:
    """Tell whether the inverse of a program takes Newton steps, in its segments or in its loops."""
    inner = [a for plan in analysis.plans for a in getattr(plan, "analyses", [])]
    takes_steps = (
        route(analysis, segment).is_short and _sweep(analysis, plan, segment) is None
        for plan, segment in zip(analysis.plans, analysis.segments)
    )
    return any(map(iterates, inner)) or any(takes_steps)


def _inverted(
    analysis: Analysis, plan: Plan | NestedEquation, segment: Segment, given: tuple[dict, bool]
) -> tuple[dict, Array]:
    """Invert a segment: propagate, then solve for the numbers that stay unknown."""
    (values, is_replaced), in_bounds = given, jnp.asarray(True)
    moves = route(analysis, segment, is_replaced)
    allowed = within(analysis.bounds, is_replaced)
    for s in segment.outputs:
        if isinstance(s, Variable):
            values[s], reached = allowed(s, values[s])
            in_bounds &= reached
    known, reached = follow(moves, values, allowed)
    reached &= in_bounds
    if moves.is_short and (planned := _sweep(analysis, plan, segment, is_replaced)):
        found, reached_by_sweeps = _swept(
            analysis, injectivity.require_plan(plan), known, planned, allowed
        )
        known, reached = known | found, reached & reached_by_sweeps
    elif moves.is_short:
        verdict = _judge(analysis, plan, segment, moves)
        known = known | _solved(analysis, injectivity.require_plan(plan), moves, known, verdict)
    return values | {s: known[s] for s in segment.inputs}, reached


def judge_each(analysis: Analysis) -> list[str]:
    """Tell for each segment whether it is injective, and how certain that is.

    Args:
        analysis: The analysis of a program that keeps all numbers.

    Returns:
        ``proved``, ``assumed`` or ``refuted: ...`` for each segment.
    """
    verdicts = []
    for plan, segment in zip(analysis.plans, analysis.segments):
        try:
            moves = route(analysis, segment)
            inner = [v for a in getattr(plan, "analyses", []) for v in judge_each(a)]
            # the point that propagation or sweeps find is the only pre-image
            is_unique = not moves.is_short or _sweep(analysis, plan, segment) is not None
            own = "proved" if is_unique else _judge(analysis, plan, segment, moves)
        except injectivity.NotInjectiveError as refusal:
            own, inner = f"refuted: {refusal}", []
        refuted = [v for v in (own, *inner) if v.startswith("refuted")]
        unrefuted = "assumed" if "assumed" in (own, *inner) else "proved"
        verdicts.append(refuted[0] if refuted else unrefuted)
    return verdicts


def _judge(
    analysis: Analysis, plan: Plan | NestedEquation, segment: Segment, moves: Schedule
) -> str:
    """Prove, assume or refute that a segment which propagation cannot invert is injective."""
    injectivity.refuse_folds(analysis, segment, moves)
    plan = injectivity.require_plan(plan)
    if injectivity.is_proved(plan, analysis):
        return "proved"
    read = {s for equation in segment.equations for s in equation.variables} - set(segment.inputs)
    own = {s for equation in segment.equations for s in equation.results}
    constants = {s: analysis.static.value(s) for s in read - own}
    if all(v is not None for v in constants.values()):
        injectivity.refuse_constant_folds(plan, analysis, constants)
    return "assumed"


def _swept(
    analysis: Analysis, plan: Plan, values: dict, planned: Sweep, allowed: Callable
) -> tuple[dict, Array]:
    """Find the inputs of a triangular segment by sweeps, and whether they exist."""
    y, known, outside = _problem(plan.segment, values)
    x, reached = sweeps.root(plan, analysis.origin, y, outside, (planned, known, allowed))
    return split(x, plan.segment.inputs), reached


def _problem(segment: Segment, values: dict) -> tuple[Array, Array, dict]:
    """Return the outputs of a segment, its inputs as far as known, and the values it reads."""
    y = joined(values, segment.outputs)
    inputs = {s: values.get(s, jnp.zeros(s.shape, s.dtype)) for s in segment.inputs}
    inner = {*segment.inputs, *(s for equation in segment.equations for s in equation.results)}
    outside = {s: x for s, x in values.items() if s not in inner}
    return y, joined(inputs, segment.inputs), outside


def _solved(analysis: Analysis, plan: Plan, moves: Schedule, values: dict, verdict: str) -> dict:
    """Solve for the inputs of a segment that propagation left unknown; NaN if that fails."""
    segment = plan.segment
    unknown = np.concatenate([moves.unknown[s].ravel() for s in segment.inputs])
    y, known, outside = _problem(segment, values)
    x = newton.root(plan, analysis.origin, y, outside, (known, unknown))
    is_valid = jnp.isfinite(x).all()
    line = injectivity.location(segment.equations[0])
    checkify.debug_check(is_valid, f"the inverse did not converge in the segment from {line} on")
    if verdict == "assumed":
        fixed = {s: jax.lax.stop_gradient(v) for s, v in outside.items()}
        folds = injectivity.folds(plan, analysis, fixed, jax.lax.stop_gradient(x))
        checkify.debug_check(~folds, f"the map is not injective in the segment from {line} on")
        x = jnp.where(folds, jnp.nan, x)
    # a number that was known is NaN if it meets a number without a root in the same result
    return split(jnp.where(unknown | jnp.isnan(x), x, known), segment.inputs)
