"""The inverse of a program: its segments backwards, by propagation where that suffices."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from funcdl.density import _newton
from funcdl.density._injective import require_injective
from funcdl.density._lift import Lifted
from funcdl.density._program import Slot
from funcdl.density._propagate import Setting, follow, schedule
from funcdl.density._segment import joined, split


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
        NotInjective: If the structure shows that several inputs give the same outputs.
    """
    whole = analysis.program
    values = whole.captured | {s: x for s, x in zip(whole.inputs, args) if s not in whole.main_in}
    for step in whole.steps:
        if not any(s in whole.dynamic for s in step.slots):
            operands = [values[o] if isinstance(o, Slot) else o for o in step.operands]
            values.update(zip(step.results, step.evaluate(*operands)))
    reached = jnp.asarray(True)
    values.update((s, jnp.asarray(y)) for s, y in zip(whole.main_out, targets))
    for plan, segment in reversed(list(zip(analysis.plans, analysis.segments))):
        values, inside = _back(analysis, plan, segment, values)
        reached &= inside
    return [values[s] for s in whole.main_in], reached


def _back(analysis, plan, segment, values: dict) -> tuple[dict, object]:
    setting = Setting(
        segment,
        analysis.program.dynamic,
        analysis.reads_of,
        analysis.bounds,
        analysis.facts,
        analysis.lift,
    )
    route = schedule(setting)
    found, reached = follow(route, values)
    if any(mask.any() for mask in route.unknown.values()):
        require_injective(analysis, plan, segment, route)
        found = found | _solved(analysis, plan, segment, route, found)
    keep = {s: found[s] for s in segment.inputs}
    return values | keep, reached


def _solved(analysis, plan, segment, route, values: dict) -> dict:
    unknown = np.concatenate([route.unknown[s].ravel() for s in segment.inputs])
    y = joined(values, segment.outputs)
    known = {s: values.get(s, jnp.zeros(s.shape, s.dtype)) for s in segment.inputs}
    inner = {*segment.inputs, *(s for step in segment.steps for s in step.results)}
    outside = {s: x for s, x in values.items() if s not in inner}
    x = _newton.root(plan, analysis.origin, y, outside, (joined(known, segment.inputs), unknown))
    given = joined(known, segment.inputs)
    poison = jnp.where(jnp.isfinite(x).all(), 0.0, jnp.nan)
    return split(jnp.where(unknown, x, given + poison), segment.inputs)


__all__ = ["Callable", "Lifted", "invert"]
