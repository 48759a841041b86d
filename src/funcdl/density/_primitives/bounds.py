"""Bounds of the values of a program, propagated from equation to equation."""

import math
from collections.abc import Callable

from funcdl.density._primitives.interval import UNBOUNDED, Interval
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._primitives.table import record
from funcdl.density._program.program import Equation, Operand, Program, Variable


def intervals(program: Program, static: StaticValues) -> Callable:
    """Bound the values of a program.

    Args:
        program: The program; its inputs are unbounded unless they are fixed.
        static: The static values of the program.

    Returns:
        A function ``bounds(operand) -> (low, high)``.
    """
    interval_of: dict[Variable, Interval] = {}

    def bounds(operand: Operand) -> Interval:
        if isinstance(operand, Variable) and operand in interval_of:
            return interval_of[operand]
        value = static.value(operand)
        if value is None or value.size == 0 or value.dtype.kind not in "fiub":
            return UNBOUNDED
        return float(value.min()), float(value.max())

    for equation in program.equations:
        result = _bound(equation, [bounds(o) for o in equation.operands])
        interval_of.update(dict.fromkeys(equation.results, result))
    return bounds


def _bound(equation: Equation, operands: list[Interval]) -> Interval:
    entry = record(equation.name)
    if entry.sources is not None:
        lows, highs = zip(*entry.moved_from(operands))
        return min(lows), max(highs)
    if entry.bounds is None:
        return UNBOUNDED
    low, high = entry.bounds(equation if entry.reads else equation.eqn.params, *operands)
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)
