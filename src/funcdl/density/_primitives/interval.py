r"""Interval arithmetic: bounds of results from bounds of operands.

Bounds show, for instance, that :math:`x^2` is injective where :math:`x` is an exponential. An
interval is one pair ``(low, high)`` for a whole array; whether its ends belong to it is not kept.
"""

import math
from collections.abc import Callable

import numpy as np

Interval = tuple[float, float]
UNBOUNDED: Interval = (-math.inf, math.inf)
ONE: Interval = (1.0, 1.0)
BELOW_ZERO = -5e-324  # the lower bound of a derivative that is 0 on an interval, not at a point


def times(x: Interval, y: Interval) -> Interval:
    """Multiply intervals; 0 times infinity is 0, because both are bounds and not values."""
    products = [0.0 if 0 in (a, b) else a * b for a in x for b in y]
    return min(products), max(products)


def plus(x: Interval, y: Interval) -> Interval:
    """Add intervals."""
    return x[0] + y[0], x[1] + y[1]


def minus(x: Interval, y: Interval) -> Interval:
    """Subtract intervals."""
    return x[0] - y[1], x[1] - y[0]


def reciprocal(x: Interval) -> Interval:
    """Bound the reciprocal; it is unbounded if 0 lies inside the interval."""
    if x[0] < 0 < x[1]:
        return UNBOUNDED
    low, high = sorted(abs(v) for v in x)
    bounds = (1 / high if high else math.inf, 1 / low if low else math.inf)
    return bounds if x[1] > 0 else (-bounds[1], -bounds[0])


def integer_power(x: Interval, n: int) -> Interval:
    """Raise an interval to an integer power."""
    if n % 2 == 0 and n > 0:
        top = max(abs(x[0]), abs(x[1]))
        bottom = 0.0 if x[0] <= 0 <= x[1] else min(abs(x[0]), abs(x[1]))
        return _power(bottom, n), _power(top, n)
    if n > 0:
        return _power(x[0], n), _power(x[1], n)
    if x[0] >= 0 or x[1] <= 0:
        pole = math.copysign(math.inf, sum(x)) if n % 2 else math.inf
        ends = [_power(v, n) if v else pole for v in x]
        return min(ends), max(ends)
    return (0.0, math.inf) if n % 2 == 0 else UNBOUNDED


def _power(x: float, n: int) -> float:
    """Raise a bound to a power; Python raises an exception where the result overflows."""
    try:
        return math.inf if x == 0 and n < 0 else float(x) ** n
    except OverflowError:
        return math.copysign(math.inf, x) if n % 2 else math.inf


def absolute(x: Interval) -> Interval:
    """Bound the absolute value."""
    if x[0] > 0 or x[1] < 0:
        return min(abs(x[0]), abs(x[1])), max(abs(x[0]), abs(x[1]))
    return 0.0, max(map(abs, x))


def increasing(f: Callable, low: float = -math.inf, high: float = math.inf) -> Callable:
    """Return the field ``bounds`` for a function that increases on (low, high).

    The function must be undefined outside (low, high). If it is defined beyond a pole, as ``tan``
    and ``digamma`` are, write a rule that returns ``UNBOUNDED`` across the pole, for ``bounds`` and
    for ``slope_bounds``: such a function is not monotone, even where every derivative is positive.
    """

    def bounds(_params: dict, x: Interval) -> Interval:
        with np.errstate(all="ignore"):
            a, b = (float(f(v)) for v in (max(x[0], low), min(x[1], high)))
        return a, b

    return bounds


def decreasing(f: Callable, low: float = -math.inf, high: float = math.inf) -> Callable:
    """Return the field ``bounds`` for a function that decreases on (low, high)."""
    rises = increasing(f, low, high)
    return lambda params, x: rises(params, x)[::-1]
