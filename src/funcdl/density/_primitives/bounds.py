"""Bounds of the values of a program, propagated from equation to equation."""

import math
from collections.abc import Callable

import numpy as np

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
        operands = [bounds(o) for o in equation.operands]
        interval_of.update(zip(equation.results, _bounds(equation, operands)))
    return bounds


def _bounds(equation: Equation, operands: list[Interval]) -> list[Interval]:
    """Bound each result of an equation."""
    entry = record(equation.name)
    if entry.in_place:  # each operand becomes the result at its position
        forms = zip(equation.operands, equation.results, operands)
        return [_converted(equation, x, y, bound) for x, y, bound in forms]
    if entry.sources is not None:
        lows, highs = zip(*entry.moved_from(operands), *_filled(equation))
        return [(min(lows), max(highs))] * len(equation.results)
    if entry.bounds is None:
        return [UNBOUNDED] * len(equation.results)
    low, high = entry.bounds(equation if entry.reads else equation.eqn.params, *operands)
    bound = (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)
    return [bound] * len(equation.results)


def _filled(equation: Equation) -> list[Interval]:
    """Return the constant that a gather puts where it reads outside of its operand."""
    fill = equation.eqn.params.get("fill_value")
    return [] if fill is None else [(float(fill), float(fill))]


def _converted(equation: Equation, operand: Operand, result: Variable, x: Interval) -> Interval:
    """Bound a value after a conversion, which rounds it to the precision of the result."""
    if equation.name == "reduce_precision":  # rounding keeps the sign
        return (0.0 if x[0] >= 0 else -math.inf), (0.0 if x[1] <= 0 else math.inf)
    if not isinstance(operand, Variable) or operand.dtype == result.dtype:
        return x
    if not result.is_real:  # integers wrap around or saturate, and complex numbers have no order
        return UNBOUNDED
    with np.errstate(all="ignore"):
        low, high = (float(np.asarray(v).astype(result.dtype)) for v in x)
    return low, high
