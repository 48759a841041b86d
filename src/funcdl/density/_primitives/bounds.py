r"""Bounds of the values of a program, from the bounds of each operation.

:math:`x^2` is injective where :math:`x` is an exponential. A bound is one pair for a whole array;
what an operation is not known to bound is unbounded. Bounds are open or closed alike.
"""

import math
from collections.abc import Callable

import numpy as np

from funcdl.density._program.constants import STRUCTURAL, Facts
from funcdl.density._program.program import Program, Slot, Step

Interval = tuple[float, float]
UNBOUNDED: Interval = (-math.inf, math.inf)


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


def _bound(step: Step, given: list[Interval]) -> Interval:
    if step.name in STRUCTURAL:
        first = {"select_n": 1}.get(step.name, 0)
        moved = given[first:] if step.name in ("select_n", "concatenate") else given[:1]
        if step.name in ("pad", "scatter", "dynamic_update_slice"):
            moved = [given[0], given[2 if step.name == "scatter" else 1]]
        return min(a for a, _ in moved), max(b for _, b in moved)
    if step.name == "reduce_sum":
        count = step.operands[0].size / max(step.results[0].size, 1)
        return times(given[0], (count, count))
    rule = _RULES.get(step.name)
    if rule is None:
        return UNBOUNDED
    low, high = rule(step.equation.params, *given)
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _increasing(f: Callable, low: float = -math.inf, high: float = math.inf) -> Callable:
    """An increasing function on (low, high)."""

    def rule(_params, x: Interval) -> Interval:
        with np.errstate(all="ignore"):
            a, b = (float(f(v)) for v in (max(x[0], low), min(x[1], high)))
        return a, b

    return rule


def times(x: Interval, y: Interval) -> Interval:
    """Multiply intervals; 0 times infinity is 0, as both are bounds and not values."""
    found = [0.0 if 0 in (a, b) else a * b for a in x for b in y]
    return min(found), max(found)


def plus(x: Interval, y: Interval) -> Interval:
    """Add intervals."""
    return x[0] + y[0], x[1] + y[1]


def _even(n: int, x: Interval) -> Interval:
    top = max(abs(x[0]), abs(x[1]))
    bottom = 0.0 if x[0] <= 0 <= x[1] else min(abs(x[0]), abs(x[1]))
    return _power(bottom, n), _power(top, n)


def _power(x: float, n: int) -> float:
    try:
        return math.inf if x == 0 and n < 0 else float(x) ** n
    except OverflowError:
        return math.copysign(math.inf, x) if n % 2 else math.inf


def _integer_pow(params, x: Interval) -> Interval:
    n = params["y"]
    if n % 2 == 0 and n > 0:
        return _even(n, x)
    if n > 0:
        return _power(x[0], n), _power(x[1], n)
    if x[0] >= 0 or x[1] <= 0:
        found = [_power(v, n) if v else math.copysign(math.inf, sum(x)) for v in x]
        return min(found), max(found)
    return (0.0, math.inf) if n % 2 == 0 else UNBOUNDED


def _absolute(_params, x: Interval) -> Interval:
    return _even(1, (abs(x[0]), abs(x[1]))) if x[0] > 0 or x[1] < 0 else (0.0, max(map(abs, x)))


def _quotient(_params, x: Interval, y: Interval) -> Interval:
    if y[0] < 0 < y[1]:
        return UNBOUNDED
    inverse = _integer_pow({"y": -1}, y)
    return times(x, inverse)


def _exp(x):
    return np.exp(np.minimum(x, 1e4))


_RULES: dict[str, Callable] = {
    "exp": _increasing(_exp),
    "exp2": _increasing(np.exp2),
    "expm1": _increasing(np.expm1),
    "log": _increasing(np.log, 0.0),
    "log1p": _increasing(np.log1p, -1.0),
    "tanh": _increasing(np.tanh),
    "logistic": _increasing(lambda x: 1 / (1 + np.exp(-x))),
    "erf": lambda _p, x: (-1.0 if x[0] < 0 else 0.0, 1.0 if x[1] > 0 else 0.0),
    "sqrt": _increasing(np.sqrt, 0.0),
    "cbrt": _increasing(np.cbrt),
    "sinh": _increasing(np.sinh),
    "asinh": _increasing(np.arcsinh),
    "atan": _increasing(np.arctan),
    "atanh": _increasing(np.arctanh, -1.0, 1.0),
    "asin": _increasing(np.arcsin, -1.0, 1.0),
    "acos": lambda _p, _x: (0.0, math.pi),
    "cosh": lambda _p, _x: (1.0, math.inf),
    "acosh": _increasing(np.arccosh, 1.0),
    "sin": lambda _p, _x: (-1.0, 1.0),
    "cos": lambda _p, _x: (-1.0, 1.0),
    "neg": lambda _p, x: (-x[1], -x[0]),
    "abs": _absolute,
    "square": lambda _p, x: _even(2, x),
    "integer_pow": _integer_pow,
    "relu": lambda _p, x: (max(x[0], 0.0), max(x[1], 0.0)),
    "pow": lambda _p, x, _a: (0.0, math.inf) if x[0] >= 0 else UNBOUNDED,
    "add": lambda _p, x, y: plus(x, y),
    "sub": lambda _p, x, y: (x[0] - y[1], x[1] - y[0]),
    "mul": lambda _p, x, y: times(x, y),
    "div": _quotient,
    "max": lambda _p, x, y: (max(x[0], y[0]), max(x[1], y[1])),
    "min": lambda _p, x, y: (min(x[0], y[0]), min(x[1], y[1])),
    "clamp": lambda _p, a, x, b: (max(x[0], a[0]), min(x[1], b[1])),
    "logaddexp": lambda _p, x, y: (max(x[0], y[0]), math.inf),
    "copy": lambda _p, x: x,
    "stop_gradient": lambda _p, x: x,
    "reduce_max": lambda _p, x: x,
    "reduce_min": lambda _p, x: x,
}
