"""Bounds of the values of a program, from the bounds of each operation."""

import math
from collections.abc import Callable

from funcdl.density._primitives.constants import Facts
from funcdl.density._primitives.interval import UNBOUNDED, Interval
from funcdl.density._primitives.table import record
from funcdl.density._program.program import Program, Slot, Step


def intervals(program: Program, facts: Facts) -> Callable:
    """Bound the values of a program.

    Args:
        program: Its main inputs are unbounded.
        facts: Constants.

    Returns:
        ``operand -> (low, high)``.
    """
    found: dict[Slot, Interval] = {}

    def bounds(operand) -> Interval:
        if isinstance(operand, Slot) and operand in found:
            return found[operand]
        value = facts.value(operand)
        if value is None or value.size == 0 or value.dtype.kind not in "fiub":
            return UNBOUNDED
        return float(value.min()), float(value.max())

    for step in program.steps:
        found.update(dict.fromkeys(step.results, _bound(step, [bounds(o) for o in step.operands])))
    return bounds


def _bound(step: Step, operands: list[Interval]) -> Interval:
    entry = record(step.name)
    if entry.sources is not None:
        lows, highs = zip(*entry.moved_from(operands))
        return min(lows), max(highs)
    if entry.bounds is None:
        return UNBOUNDED
    low, high = entry.bounds(step if entry.reads else step.equation.params, *operands)
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)
