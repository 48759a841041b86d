"""Records of the elementwise functions of one number: powers, exponentials, trigonometry."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from funcdl._typing import Array
from funcdl.density._primitives.interval import (
    BELOW_ZERO,
    ONE,
    UNBOUNDED,
    Interval,
    absolute,
    decreasing,
    increasing,
    integer_power,
    times,
)
from funcdl.density._primitives.primitive import (
    NEGATIVE,
    POSITIVE,
    Inverse,
    Primitive,
    between,
    everywhere,
    keeps_zero,
    on_intervals,
)
from funcdl.density._primitives.slope import ONE as SLOPE_ONE
from funcdl.density._primitives.slope import Numbers, Slope, of, product

_HALF_PI = math.pi / 2
_LOG_2 = math.log(2)
_SQRT_PI = math.sqrt(math.pi)
_CENTRAL = (-_HALF_PI, _HALF_PI)


def unary(slope: Callable, **facts: Any) -> Primitive:
    """Build the record of a function of one number.

    Args:
        slope: A function ``(x, y) -> Slope``, the derivative at ``y = f(x)``.
        facts: The other fields of ``Primitive``.

    Returns:
        The record.
    """
    return Primitive(slopes=lambda _params, x, y: (slope(x, y),), **facts)


def _log_logistic_slope(x: Numbers) -> Array:
    """Return the logarithm of the derivative of the logistic function."""
    return -jnp.abs(x) - 2 * jnp.log1p(jnp.exp(-jnp.abs(x)))


def _log_cosh2(x: Numbers) -> Array:
    """Return twice the logarithm of cosh."""
    return 2 * (jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - np.log(2.0))


def _log_square_plus_one(x: Numbers) -> Array:
    """Return log(x^2 + 1), also where x^2 overflows."""
    is_large = jnp.abs(x) > 1
    inner, outer = jnp.where(is_large, 0.5, x), jnp.where(is_large, x, 2)
    return jnp.where(
        is_large, 2 * jnp.log(jnp.abs(outer)) + jnp.log1p(outer**-2), jnp.log1p(inner**2)
    )


def _power_slopes(params: dict, x: Numbers, _y: Array) -> tuple:
    n = params["y"]
    return (of(float(n), (x, n - 1)) if n else of(jnp.zeros_like(x)),)


def _power_slope_bounds(_position: int, x: list, _result: Interval, params: dict) -> Interval:
    n = params.get("y", 2)
    low, high = x[0]
    if n % 2 and n > 0:  # n x^(n-1) vanishes only at 0
        return POSITIVE
    if low >= 0 or high <= 0:
        sign = n * (1 if low >= 0 else (-1) ** (n - 1))
        return POSITIVE if sign > 0 else NEGATIVE
    return UNBOUNDED


def _power_inverse(params: dict, _position: int, domain: Interval) -> Inverse | None:
    n = params.get("y", 2)
    if n % 2:
        return Inverse(lambda _params, y: jnp.sign(y) * _root(jnp.abs(y), n))
    if n == 0 or domain[0] < 0 < domain[1]:
        return None
    sign = 1 if domain[0] >= 0 else -1
    return Inverse(lambda _params, y: sign * _root(y, n), POSITIVE)


def _root(y: Numbers, n: int) -> Array:
    return jnp.sqrt(y) if n == 2 else y ** (1 / n)


def _relu_slope_bounds(_position: int, x: list, _result: Interval, _params: dict) -> Interval:
    return ONE if x[0][0] >= 0 else (BELOW_ZERO, 1.0)


def _abs_slope_bounds(_position: int, x: list, _result: Interval, _params: dict) -> Interval:
    return ONE if x[0][0] >= 0 else (-1.0, 1.0)


def _cosh_slope_bounds(_position: int, x: list, _result: Interval, _params: dict) -> Interval:
    return POSITIVE if x[0][0] >= 0 else NEGATIVE if x[0][1] <= 0 else UNBOUNDED


def _tan_slope_bounds(_position: int, x: list, _result: Interval, _params: dict) -> Interval:
    # elsewhere the slope is positive too, but tan is not monotone across its poles
    return (1.0, math.inf) if _is_central(x[0]) else UNBOUNDED


def _tan_bounds(_params: dict, x: Interval) -> Interval:
    has_no_pole = x[0] > -_HALF_PI and x[1] < _HALF_PI
    return (math.tan(x[0]), math.tan(x[1])) if has_no_pole else UNBOUNDED


def _is_central(x: Interval) -> bool:
    return _CENTRAL[0] <= x[0] and x[1] <= _CENTRAL[1]


def _exp(x: float) -> float:
    return np.exp(np.minimum(x, 1e4))


def _log_of_exp(operands: tuple, _magnitude: Callable) -> Slope:
    return Slope(log=operands[0])


def _log_of_logistic(operands: tuple, _magnitude: Callable) -> Slope:
    return Slope(log=-jax.nn.softplus(-operands[0]))


def _negated(_operands: tuple, magnitude: Callable) -> Slope:
    return product(Slope(((-1.0, 1),)), magnitude(0))


UNARY: dict[str, Primitive] = {
    "neg": unary(
        lambda x, y: of(-1.0),
        slope_bounds=between(-1.0, -1.0),
        bounds=lambda _p, x: (-x[1], -x[0]),
        inverse=everywhere(lambda _p, y: -y),
        support=keeps_zero,
        magnitude=_negated,
        linear="jointly",
    ),
    "copy": unary(
        lambda x, y: SLOPE_ONE,
        slope_bounds=between(*ONE),
        bounds=lambda _p, x: x,
        inverse=everywhere(lambda _p, y: y),
        linear="jointly",
        evaluate=lambda _p, x: x,
        sources=(0,),
    ),
    "abs": unary(
        lambda x, y: of(jnp.where(x >= 0, 1.0, -1.0)),  # at 0, both sides have a slope of size 1
        slope_bounds=_abs_slope_bounds,
        bounds=lambda _p, x: absolute(x),
        inverse=on_intervals(
            (POSITIVE, Inverse(lambda _p, y: y, POSITIVE)),
            (NEGATIVE, Inverse(lambda _p, y: -y, POSITIVE)),
        ),
        folds=True,
        support=keeps_zero,
    ),
    "relu": unary(
        lambda x, y: of(1.0 * (x > 0)),
        slope_bounds=_relu_slope_bounds,
        bounds=lambda _p, x: (max(x[0], 0.0), max(x[1], 0.0)),
        inverse=on_intervals((POSITIVE, Inverse(lambda _p, y: y, POSITIVE))),
        folds=True,
        support=keeps_zero,
    ),
    "square": unary(
        lambda x, y: of(2.0, x),
        slope_bounds=_power_slope_bounds,
        bounds=lambda _p, x: integer_power(x, 2),
        inverse=_power_inverse,
        folds=True,
        support=keeps_zero,
    ),
    "integer_pow": Primitive(
        slopes=_power_slopes,
        slope_bounds=_power_slope_bounds,
        bounds=lambda p, x: integer_power(x, p["y"]),
        inverse=_power_inverse,
        folds=True,
        support=lambda p, mask: mask if p["y"] > 0 else None,
    ),
    "sqrt": unary(
        lambda x, y: of(0.5, (y, -1)),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(np.sqrt, 0.0),
        inverse=everywhere(lambda _p, y: y**2, image=POSITIVE),
        support=keeps_zero,
    ),
    "rsqrt": unary(
        lambda x, y: of(-0.5, (y, 3)),
        slope_bounds=between(*NEGATIVE),
        bounds=decreasing(lambda x: 1 / np.sqrt(x), 0.0),
        inverse=everywhere(lambda _p, y: y**-2, image=POSITIVE),
    ),
    "cbrt": unary(
        lambda x, y: of(1 / 3, (y, -2)),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(np.cbrt),
        inverse=everywhere(lambda _p, y: y**3),
        support=keeps_zero,
    ),
    "exp": unary(
        lambda x, y: of(log=x),
        slope_bounds=lambda _at, _x, y, _p: y,
        bounds=increasing(_exp),
        inverse=everywhere(lambda _p, y: jnp.log(y), image=POSITIVE),
        magnitude=_log_of_exp,
    ),
    "exp2": unary(
        lambda x, y: of(_LOG_2, log=_LOG_2 * x),
        slope_bounds=lambda _at, _x, y, _p: times(y, (_LOG_2, _LOG_2)),
        bounds=increasing(np.exp2),
        inverse=everywhere(lambda _p, y: jnp.log2(y), image=POSITIVE),
    ),
    "expm1": unary(
        lambda x, y: of(log=x),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(np.expm1),
        inverse=everywhere(lambda _p, y: jnp.log1p(y), image=(-1.0, math.inf)),
        support=keeps_zero,
    ),
    "log": unary(
        lambda x, y: of(log=-y),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(np.log, 0.0),
        inverse=everywhere(lambda _p, y: jnp.exp(y)),
    ),
    "log2": unary(
        lambda x, y: of(1 / _LOG_2, (x, -1)),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(np.log2, 0.0),
        inverse=everywhere(lambda _p, y: jnp.exp2(y)),
    ),
    "log1p": unary(
        lambda x, y: of(log=-y),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(np.log1p, -1.0),
        inverse=everywhere(lambda _p, y: jnp.expm1(y)),
        support=keeps_zero,
    ),
    "tanh": unary(
        lambda x, y: of(log=-_log_cosh2(x)),
        slope_bounds=between(0.0, 1.0),
        bounds=increasing(np.tanh),
        inverse=everywhere(lambda _p, y: jnp.arctanh(y), image=(-1.0, 1.0)),
        support=keeps_zero,
    ),
    "logistic": unary(
        lambda x, y: of(log=_log_logistic_slope(x)),
        slope_bounds=between(0.0, 0.25),
        bounds=increasing(lambda x: 1 / (1 + np.exp(-x))),
        inverse=everywhere(lambda _p, y: jnp.log(y) - jnp.log1p(-y), image=(0.0, 1.0)),
        magnitude=_log_of_logistic,
    ),
    "logit": unary(
        lambda x, y: of(log=-jnp.log(x) - jnp.log1p(-x)),
        slope_bounds=between(4.0, math.inf),
        bounds=increasing(scipy.special.logit, 0.0, 1.0),
        inverse=everywhere(lambda _p, y: jax.nn.sigmoid(y)),
    ),
    "erf": unary(
        lambda x, y: of(2 / _SQRT_PI, log=-(x**2)),
        slope_bounds=between(0.0, 2 / _SQRT_PI),
        bounds=lambda _p, x: (-1.0 if x[0] < 0 else 0.0, 1.0 if x[1] > 0 else 0.0),
        inverse=everywhere(lambda _p, y: jax.lax.erf_inv(y), image=(-1.0, 1.0)),
        support=keeps_zero,
    ),
    "erfc": unary(
        lambda x, y: of(-2 / _SQRT_PI, log=-(x**2)),
        slope_bounds=between(-2 / _SQRT_PI, 0.0),
        bounds=lambda _p, x: (0.0 if x[1] > 0 else 1.0, 2.0 if x[0] < 0 else 1.0),
        # erf_inv(1 - y) would lose the digits of a small y
        inverse=everywhere(
            lambda _p, y: -jax.scipy.special.ndtri(y / 2) / math.sqrt(2), image=(0.0, 2.0)
        ),
    ),
    "erf_inv": unary(
        lambda x, y: of(_SQRT_PI / 2, log=y**2),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(scipy.special.erfinv, -1.0, 1.0),
        inverse=everywhere(lambda _p, y: jax.lax.erf(y)),
        support=keeps_zero,
    ),
    "sin": unary(
        lambda x, y: of(jnp.cos(x)),
        slope_bounds=between(-1.0, 1.0),
        bounds=lambda _p, _x: (-1.0, 1.0),
        inverse=on_intervals((_CENTRAL, Inverse(lambda _p, y: jnp.arcsin(y), (-1.0, 1.0)))),
        folds=True,
        support=keeps_zero,
    ),
    "cos": unary(
        lambda x, y: of(-jnp.sin(x)),
        slope_bounds=between(-1.0, 1.0),
        bounds=lambda _p, _x: (-1.0, 1.0),
        inverse=on_intervals(((0.0, math.pi), Inverse(lambda _p, y: jnp.arccos(y), (-1.0, 1.0)))),
        folds=True,
    ),
    "tan": unary(
        lambda x, y: of((jnp.cos(x), -2)),
        slope_bounds=_tan_slope_bounds,
        bounds=_tan_bounds,
        inverse=on_intervals((_CENTRAL, Inverse(lambda _p, y: jnp.arctan(y)))),
        folds=True,
        support=keeps_zero,
    ),
    "asin": unary(
        lambda x, y: of((jnp.cos(y), -1)),
        slope_bounds=between(1.0, math.inf),
        bounds=increasing(np.arcsin, -1.0, 1.0),
        inverse=everywhere(lambda _p, y: jnp.sin(y), image=_CENTRAL),
        support=keeps_zero,
    ),
    "acos": unary(
        lambda x, y: of(-1.0, (jnp.sin(y), -1)),
        slope_bounds=between(-math.inf, -1.0),
        bounds=lambda _p, _x: (0.0, math.pi),
        inverse=everywhere(lambda _p, y: jnp.cos(y), image=(0.0, math.pi)),
    ),
    "atan": unary(
        lambda x, y: of(log=-_log_square_plus_one(x)),
        slope_bounds=between(0.0, 1.0),
        bounds=increasing(np.arctan),
        inverse=everywhere(lambda _p, y: jnp.tan(y), image=_CENTRAL),
        support=keeps_zero,
    ),
    "sinh": unary(
        lambda x, y: of(log=_log_cosh2(x) / 2),
        slope_bounds=between(1.0, math.inf),
        bounds=increasing(np.sinh),
        inverse=everywhere(lambda _p, y: jnp.arcsinh(y)),
        support=keeps_zero,
    ),
    "cosh": unary(
        lambda x, y: of(jnp.sinh(x)),
        slope_bounds=_cosh_slope_bounds,
        bounds=lambda _p, _x: (1.0, math.inf),
        inverse=on_intervals((POSITIVE, Inverse(lambda _p, y: jnp.arccosh(y), (1.0, math.inf)))),
        folds=True,
    ),
    "asinh": unary(
        lambda x, y: of((jnp.hypot(x, jnp.ones_like(x)), -1)),
        slope_bounds=between(0.0, 1.0),
        bounds=increasing(np.arcsinh),
        inverse=everywhere(lambda _p, y: jnp.sinh(y)),
        support=keeps_zero,
    ),
    "acosh": unary(
        lambda x, y: of((jnp.sinh(y), -1)),
        slope_bounds=between(*POSITIVE),
        bounds=increasing(np.arccosh, 1.0),
        inverse=everywhere(lambda _p, y: jnp.cosh(y), image=POSITIVE),
    ),
    "atanh": unary(
        lambda x, y: of(log=_log_cosh2(y)),
        slope_bounds=between(1.0, math.inf),
        bounds=increasing(np.arctanh, -1.0, 1.0),
        inverse=everywhere(lambda _p, y: jnp.tanh(y)),
        support=keeps_zero,
    ),
}
