r"""Derivatives of elementwise operations, in a form whose logarithm is exact where they are tiny.

:math:`\tanh'(100)` is 5e-87, which float32 rounds to 0; its logarithm -198.6 is an ordinary
number. So a slope is a product of powers, times the exponential of a logarithm.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array


class Slope(NamedTuple):
    r"""A product :math:`\prod_i v_i^{k_i}\, e^{l}`.

    Attributes:
        factors: Pairs of a value and its integer power. Where a Boolean one is False the product is
            0, whatever the others are: a branch that is not taken may be infinite or NaN.
        log: The logarithm of what is positive; None for 0.
    """

    factors: tuple = ()
    log: Array | None = None


ONE = Slope()


def product(a: Slope, b: Slope) -> Slope:
    """Multiply two slopes."""
    logs = [x for x in (a.log, b.log) if x is not None]
    return Slope(a.factors + b.factors, sum(logs) if logs else None)


def linear(slope: Slope) -> tuple[Array | np.generic | float, Array | None]:
    """Return a slope as ``(m, l)``, for ``m * exp(l)``: m may be 0, and keeps its gradient."""
    value, log = 1.0, slope.log
    for factor, power in slope.factors:
        value = value if _is_mask(factor) else value * factor**power
    for mask in _masks(slope):
        value = jnp.where(mask, value, 0.0)
        log = None if log is None else jnp.where(mask, log, -jnp.inf)
    return value, log


def log_magnitude(slope: Slope) -> Array | float:
    """Return the logarithm of the magnitude; -inf where it is 0."""
    logs = [k * jnp.log(jnp.abs(f)) for f, k in slope.factors if not _is_mask(f)]
    logs += [] if slope.log is None else [slope.log]
    total = sum(logs) if logs else 0.0
    for mask in _masks(slope):
        total = jnp.where(mask, total, -jnp.inf)
    return total


def _is_mask(factor) -> bool:
    return jnp.result_type(factor) == jnp.bool_


def _masks(slope: Slope) -> list:
    return [factor for factor, _ in slope.factors if _is_mask(factor)]


def _of(*factors, log=None) -> Slope:
    pairs = tuple(f if isinstance(f, tuple) else (f, 1) for f in factors)
    return Slope(pairs, log)


def _logistic(x) -> Array:
    """The logarithm of the derivative of the logistic function."""
    return -jnp.abs(x) - 2 * jnp.log1p(jnp.exp(-jnp.abs(x)))


def _log_cosh2(x) -> Array:
    """Twice the logarithm of cosh."""
    return 2 * (jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - np.log(2.0))


def _power(params, x, _y) -> tuple:
    n = params["y"]
    return (_of(float(n), (x, n - 1)) if n else _of(jnp.zeros_like(x)),)


def _pow(_params, x, a, y) -> tuple:
    safe = jnp.where(x > 0, x, 1)
    return _of(a * jnp.power(x, a - 1)), _of(jnp.log(safe), y)


def _extreme(sign: int) -> Callable:
    def slope(_params, a, b, _y):
        return tuple(_of(0.5 * (s > 0) + 0.5 * (s >= 0)) for s in (sign * (a - b), sign * (b - a)))

    return slope


def _select(_params, predicate, *cases) -> tuple:
    chosen = cases[:-1]
    if predicate.dtype == bool:
        return ONE, _of(~predicate), _of(predicate)
    wanted = predicate.astype(jnp.int32)
    return ONE, *(_of(wanted == at) for at in range(len(chosen)))


def _clamp(_params, low, x, high, _y) -> tuple:
    inside = (x > low) & (x < high)
    return _of(1.0 * (x < low)), _of(1.0 * inside), _of(1.0 * (x > high))


def _log_add(_params, a, b, _y) -> tuple:
    return _of(log=-jax.nn.softplus(b - a)), _of(log=-jax.nn.softplus(a - b))


_SQRT_PI = float(np.sqrt(np.pi))

# name -> (params, *operands, result) -> one slope an operand
SLOPES: dict[str, Callable] = {
    "neg": lambda _p, _x, _y: (_of(-1.0),),
    "copy": lambda _p, _x, _y: (ONE,),
    "abs": lambda _p, x, _y: (_of(jnp.sign(x)),),
    "exp": lambda _p, x, _y: (_of(log=x),),
    "exp2": lambda _p, x, _y: (_of(float(np.log(2)), log=float(np.log(2)) * x),),
    "expm1": lambda _p, x, _y: (_of(log=x),),
    "log": lambda _p, _x, y: (_of(log=-y),),
    "log2": lambda _p, x, _y: (_of(float(1 / np.log(2)), (x, -1)),),
    "log1p": lambda _p, _x, y: (_of(log=-y),),
    "tanh": lambda _p, x, _y: (_of(log=-_log_cosh2(x)),),
    "logistic": lambda _p, x, _y: (_of(log=_logistic(x)),),
    "erf": lambda _p, x, _y: (_of(2 / _SQRT_PI, log=-(x**2)),),
    "erfc": lambda _p, x, _y: (_of(-2 / _SQRT_PI, log=-(x**2)),),
    "erf_inv": lambda _p, _x, y: (_of(_SQRT_PI / 2, log=y**2),),
    "sqrt": lambda _p, _x, y: (_of(0.5, (y, -1)),),
    "rsqrt": lambda _p, _x, y: (_of(-0.5, (y, 3)),),
    "cbrt": lambda _p, _x, y: (_of(1 / 3, (y, -2)),),
    "square": lambda _p, x, _y: (_of(2.0, x),),
    "integer_pow": _power,
    "pow": _pow,
    "sin": lambda _p, x, _y: (_of(jnp.cos(x)),),
    "cos": lambda _p, x, _y: (_of(-jnp.sin(x)),),
    "tan": lambda _p, x, _y: (_of((jnp.cos(x), -2)),),
    "asin": lambda _p, _x, y: (_of((jnp.cos(y), -1)),),
    "acos": lambda _p, _x, y: (_of(-1.0, (jnp.sin(y), -1)),),
    "atan": lambda _p, x, _y: (_of(log=-jnp.log1p(x**2)),),
    "sinh": lambda _p, x, _y: (_of(log=_log_cosh2(x) / 2),),
    "cosh": lambda _p, x, _y: (_of(jnp.sinh(x)),),
    "asinh": lambda _p, x, _y: (_of((jnp.hypot(x, jnp.ones_like(x)), -1)),),
    "acosh": lambda _p, _x, y: (_of((jnp.sinh(y), -1)),),
    "atanh": lambda _p, _x, y: (_of(log=_log_cosh2(y)),),
    "add": lambda _p, _a, _b, _y: (ONE, ONE),
    "add_any": lambda _p, _a, _b, _y: (ONE, ONE),
    "sub": lambda _p, _a, _b, _y: (ONE, _of(-1.0)),
    "mul": lambda _p, a, b, _y: (_of(b), _of(a)),
    "div": lambda _p, a, b, _y: (_of((b, -1)), _of(-1.0, a, (b, -2))),
    "max": _extreme(1),
    "min": _extreme(-1),
    "select_n": _select,
    "clamp": _clamp,
    "logaddexp": _log_add,
    "logit": lambda _p, x, _y: (_of(log=-jnp.log(x) - jnp.log1p(-x)),),
    "relu": lambda _p, x, _y: (_of(1.0 * (x > 0)),),
}  # fmt: skip
