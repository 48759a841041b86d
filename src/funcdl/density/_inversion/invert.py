"""The inverse of a program: its segments backwards, by propagation where that suffices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from funcdl.density._inversion import injectivity as _injective
from funcdl.density._inversion import newton as _newton
from funcdl.density._inversion.propagation import Schedule, Setting, follow, schedule
from funcdl.density._jacobian.parts import joined, split
from funcdl.density._program.program import Variable


def invert(analysis, targets: Sequence, args: Sequence) -> tuple[list, object]:
    """Find the main inputs that give the main outputs.

    Args:
        analysis: Of the program.
        targets: One value a main output.
        args: One value an input; what stands at a main input is not read.

    Returns:
        One value a main input, NaN where no root was found; and whether the targets are in the
        image of every operation that was inverted.

    Raises:
        NotInjectiveError: If the structure shows that several inputs give the same outputs.
    """
    whole = analysis.program
    _injective.require_square(analysis)
    values = whole.captured | {s: x for s, x in zip(whole.inputs, args) if s not in whole.main_in}
    for equation in whole.equations:
        if not any(s in whole.dynamic for s in equation.variables):
            operands = [values[o] if isinstance(o, Variable) else o for o in equation.operands]
            values.update(zip(equation.results, equation.evaluate(*operands)))
    reached = jnp.asarray(True)
    values.update((s, jnp.asarray(y)) for s, y in zip(whole.main_out, targets))
    for plan, segment in reversed(list(zip(analysis.plans, analysis.segments))):
        values, inside = _back(analysis, plan, segment, values)
        reached &= inside
    return [values[s] for s in whole.main_in], reached


def _route(analysis, segment) -> Schedule:
    """The schedule of a segment, made once."""
    return schedule(
        Setting(
            segment,
            analysis.program.dynamic,
            analysis.reads_of,
            analysis.bounds,
            analysis.static,
            analysis.lift,
        )
    )


def _back(analysis, plan, segment, values: dict) -> tuple[dict, object]:
    route = _route(analysis, segment)
    found, reached = follow(route, values)
    if route.is_short:
        verdict = _judge(analysis, plan, segment, route)
        found = found | _solved(analysis, plan, route, found, verdict)
    return values | {s: found[s] for s in segment.inputs}, reached


def judge_each(analysis) -> list[str]:
    """Say for each segment how its injectivity is known.

    Args:
        analysis: Of a program that keeps all numbers.

    Returns:
        ``proved``, ``assumed`` or ``refuted: ...``, for each segment.
    """
    found = []
    for plan, segment in zip(analysis.plans, analysis.segments):
        try:
            route = _route(analysis, segment)
            inner = [v for a in getattr(plan, "analyses", []) for v in judge_each(a)]
            own = _judge(analysis, plan, segment, route) if route.is_short else "proved"
        except _injective.NotInjectiveError as refusal:
            own, inner = f"refuted: {refusal}", []
        refuted = [v for v in (own, *inner) if v.startswith("refuted")]
        told = "assumed" if "assumed" in (own, *inner) else "proved"
        found.append(refuted[0] if refuted else told)
    return found


def _judge(analysis, plan, segment, route: Schedule) -> str:
    """Prove, assume or refute that a segment which needs solving is injective."""
    _injective.refuse_folds(analysis, plan, segment, route)
    if _injective.is_proved(plan, analysis.bounds):
        return "proved"
    read = {s for equation in segment.equations for s in equation.variables} - set(segment.inputs)
    own = {s for equation in segment.equations for s in equation.results}
    constants = {s: analysis.static.value(s) for s in read - own}
    if all(v is not None for v in constants.values()):
        _injective.refuse_constant_folds(plan, analysis, constants)
    return "assumed"


def _solved(analysis, plan, route: Schedule, values: dict, verdict: str) -> dict:
    segment = plan.segment
    unknown = np.concatenate([route.unknown[s].ravel() for s in segment.inputs])
    y = joined(values, segment.outputs)
    known = {s: values.get(s, jnp.zeros(s.shape, s.dtype)) for s in segment.inputs}
    given = joined(known, segment.inputs)
    inner = {*segment.inputs, *(s for equation in segment.equations for s in equation.results)}
    outside = {s: x for s, x in values.items() if s not in inner}
    x = _newton.root(plan, analysis.origin, y, outside, (given, unknown))
    converged = jnp.isfinite(x).all()
    line = _injective.at(segment.equations[0])
    checkify.debug_check(converged, f"the inverse did not converge for {line} and what follows it")
    if verdict == "assumed":
        here = jax.lax.stop_gradient(x)
        folds = _injective.folds(plan, analysis, outside, here)
        checkify.debug_check(~folds, f"the map is not injective, for {line} and what follows it")
        converged &= ~folds
    poison = jnp.where(converged, 0.0, jnp.nan)
    return split(jnp.where(unknown, x, given) + poison, segment.inputs)
