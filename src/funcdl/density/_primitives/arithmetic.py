"""Records of elementwise operations on several numbers, and of operations without a derivative."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._primitives.interval import (
    BELOW_ZERO,
    ONE,
    UNBOUNDED,
    Interval,
    integer_power,
    minus,
    plus,
    reciprocal,
    times,
)
from funcdl.density._primitives.primitive import (
    NEGATIVE,
    POSITIVE,
    Primitive,
    everywhere,
    keeps_zero,
)
from funcdl.density._primitives.slope import ONE as SLOPE_ONE
from funcdl.density._primitives.slope import Numbers, Slope, inverted, of, product


def _pow_slopes(_params: dict, x: Numbers, a: Numbers, y: Numbers) -> tuple:
    safe = jnp.where(x > 0, x, 1)
    return of(a * jnp.power(x, a - 1)), of(jnp.log(safe), y)


def _pow_slope_bounds(position: int, operands: list, _result: Interval, _params: dict) -> Interval:
    x, a = operands
    if position == 0 and x[0] >= 0:  # a x^(a - 1)
        return POSITIVE if a[0] > 0 else NEGATIVE if a[1] < 0 else UNBOUNDED
    if position == 1 and x[0] > 0:  # x^a log x
        return POSITIVE if x[0] > 1 else NEGATIVE if x[1] < 1 else UNBOUNDED
    return UNBOUNDED


def _extreme_slopes(sign: int) -> Callable:
    def slopes(_params: dict, a: Numbers, b: Numbers, _y: Numbers) -> tuple:
        return tuple(of(0.5 * (s > 0) + 0.5 * (s >= 0)) for s in (sign * (a - b), sign * (b - a)))

    return slopes


def _extreme_slope_bounds(position: int, operands: list, _result: Interval, _p: dict) -> Interval:
    low, high = operands[1 - position]
    return (BELOW_ZERO, 1.0) if low == high else ONE  # flat on one side of a constant


def _clamp_slopes(_params: dict, low: Numbers, x: Numbers, high: Numbers, _y: Numbers) -> tuple:
    is_between = (x > low) & (x < high)
    return of(1.0 * (x < low)), of(1.0 * is_between), of(1.0 * (x > high))


def _clamp_slope_bounds(position: int, operands: list, _result: Interval, _p: dict) -> Interval:
    low, x, high = operands
    never_clamped = low[1] <= x[0] and x[1] <= high[0]
    return ONE if position == 1 and never_clamped else (BELOW_ZERO, 1.0)


def _quotient(_params: dict, x: Interval, y: Interval) -> Interval:
    return UNBOUNDED if y[0] < 0 < y[1] else times(x, integer_power(y, -1))


def _log_subtract(_params: dict, y: Numbers, other: Numbers) -> Array:
    return y + jnp.log(-jnp.expm1(other - y))


def _either(_params: dict, *masks: Numbers) -> Numbers:
    return masks[0] | masks[1]


def _both(_params: dict, *masks: Numbers) -> Numbers:
    return masks[0] & masks[1]


def _product_magnitude(_operands: tuple, magnitude: Callable) -> Slope:
    return product(magnitude(0), magnitude(1))


def _quotient_magnitude(_operands: tuple, magnitude: Callable) -> Slope:
    return product(magnitude(0), inverted(magnitude(1)))


_ADD = Primitive(
    slopes=lambda _p, _a, _b, _y: (SLOPE_ONE, SLOPE_ONE),
    slope_bounds=lambda _at, _x, _y, _p: ONE,
    bounds=lambda _p, x, y: plus(x, y),
    inverse=everywhere(lambda _p, y, b: y - b, lambda _p, y, a: y - a),
    support=_either,
    linear="jointly",
    evaluate=lambda _p, x, y: x + y,
)
_CHOICE = {"inverse": "only the chosen number is known, the other one is not"}

NARY: dict[str, Primitive] = {
    "add": _ADD,
    "add_any": _ADD,
    "sub": Primitive(
        slopes=lambda _p, _a, _b, _y: (SLOPE_ONE, of(-1.0)),
        slope_bounds=lambda at, _x, _y, _p: ONE if at == 0 else (-1.0, -1.0),
        bounds=lambda _p, x, y: minus(x, y),
        inverse=everywhere(lambda _p, y, b: y + b, lambda _p, y, a: a - y),
        support=_either,
        linear="jointly",
        evaluate=lambda _p, x, y: x - y,
    ),
    "mul": Primitive(
        slopes=lambda _p, a, b, _y: (of(b), of(a)),
        slope_bounds=lambda at, x, _y, _p: x[1 - at],
        bounds=lambda _p, x, y: times(x, y),
        inverse=everywhere(lambda _p, y, b: y / b, lambda _p, y, a: y / a),
        support=_both,
        magnitude=_product_magnitude,
        linear="separately",
    ),
    "div": Primitive(
        slopes=lambda _p, a, b, _y: (of((b, -1)), of(-1.0, a, (b, -2))),
        slope_bounds=lambda at, x, _y, _p: reciprocal(x[1]) if at == 0 else UNBOUNDED,
        bounds=_quotient,
        inverse=everywhere(lambda _p, y, b: y * b, lambda _p, y, a: a / y),
        support=lambda _p, *masks: masks[0],
        magnitude=_quotient_magnitude,
    ),
    "pow": Primitive(
        slopes=_pow_slopes,
        slope_bounds=_pow_slope_bounds,
        bounds=lambda _p, x, _a: POSITIVE if x[0] >= 0 else UNBOUNDED,
        inverse=everywhere(
            lambda _p, y, a: jnp.power(y, 1 / a),
            lambda _p, y, x: jnp.log(y) / jnp.log(x),
            image=POSITIVE,
        ),
    ),
    "logaddexp": Primitive(
        slopes=lambda _p, a, b, _y: (
            of(log=-jax.nn.softplus(b - a)),
            of(log=-jax.nn.softplus(a - b)),
        ),
        slope_bounds=lambda _at, _x, _y, _p: (0.0, 1.0),
        bounds=lambda _p, x, y: (max(x[0], y[0]), math.inf),
        inverse=everywhere(_log_subtract, _log_subtract),
    ),
    "max": Primitive(
        slopes=_extreme_slopes(1),
        slope_bounds=_extreme_slope_bounds,
        bounds=lambda _p, x, y: (max(x[0], y[0]), max(x[1], y[1])),
        support=_either,
        choice=True,
        missing=_CHOICE,
    ),
    "min": Primitive(
        slopes=_extreme_slopes(-1),
        slope_bounds=_extreme_slope_bounds,
        bounds=lambda _p, x, y: (min(x[0], y[0]), min(x[1], y[1])),
        support=_either,
        choice=True,
        missing=_CHOICE,
    ),
    "clamp": Primitive(
        slopes=_clamp_slopes,
        slope_bounds=_clamp_slope_bounds,
        bounds=lambda _p, a, x, b: (max(x[0], a[0]), min(x[1], b[1])),
        folds=True,
        missing={"inverse": "it is constant beyond the limits"},
    ),
}


def _compare(f: Callable) -> Primitive:
    return Primitive(pointwise=True, evaluate=lambda _params, x, y: f(x, y))


def _staircase(**facts: Any) -> Primitive:
    return Primitive(flat=True, jumps=True, folds=True, pointwise=True, **facts)


# operations whose derivative is 0, or that have no derivative
STEPWISE: dict[str, Primitive] = {
    "floor": _staircase(support=keeps_zero),
    "ceil": _staircase(),
    "round": _staircase(support=keeps_zero),
    "sign": _staircase(support=keeps_zero),
    "rem": Primitive(folds=True, jumps=True),
    "stop_gradient": Primitive(flat=True, pointwise=True, bounds=lambda _p, x: x),
    "is_finite": Primitive(folds=True, pointwise=True),
    "argmax": Primitive(folds=True),
    "argmin": Primitive(folds=True),
    "lt": _compare(np.less),
    "le": _compare(np.less_equal),
    "gt": _compare(np.greater),
    "ge": _compare(np.greater_equal),
    "eq": _compare(np.equal),
    "ne": _compare(np.not_equal),
    "and": _compare(np.bitwise_and),
    "or": _compare(np.bitwise_or),
    "xor": Primitive(pointwise=True),
    "not": Primitive(pointwise=True, evaluate=lambda _p, x: ~x),
    "real": Primitive(support=keeps_zero, linear="jointly"),
    "imag": Primitive(support=keeps_zero, linear="jointly"),
    "conj": Primitive(support=keeps_zero),
    "complex": Primitive(),
}
