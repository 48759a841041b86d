"""Inverses of elementwise operations, each on the interval where it is injective."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import Array
from funcdl.density._primitives.bounds import UNBOUNDED, Interval


class Inverse(NamedTuple):
    """The way back through one operand of an operation.

    Attributes:
        function: ``(params, result, *other operands) -> operand``.
        image: The values that the operation takes.
    """

    function: Callable
    image: Interval = UNBOUNDED


def inverse_of(name: str, params: dict, at: int, domain: Interval) -> Inverse | None:
    """Return the inverse of an operation by one operand, the others known.

    Args:
        name: Of the primitive.
        params: Of the equation.
        at: Position of the operand.
        domain: Bounds of the operand.

    Returns:
        None if the operation is not injective there, or no inverse is known.
    """
    if name in ("integer_pow", "square"):
        return _power(params.get("y", 2), domain)
    if name in _ON_INTERVALS:
        return next((inv for (low, high), inv in _ON_INTERVALS[name]
                     if low <= domain[0] and domain[1] <= high), None)  # fmt: skip
    found = _INVERSES.get(name)
    return found[at] if found is not None and at < len(found) else None


def is_folding(name: str, params: dict, domain: Interval) -> bool:
    """Tell whether an elementwise operation sends several numbers of its domain to one."""
    if name in ("integer_pow", "square"):
        return _power(params.get("y", 2), domain) is None
    if name in _ON_INTERVALS:
        return inverse_of(name, params, 0, domain) is None
    return name in _FLAT


def _power(n: int, domain: Interval) -> Inverse | None:
    def root(_params, y):
        return jnp.sign(y) * _root(jnp.abs(y), n)

    if n % 2:
        return Inverse(root)
    if n == 0 or domain[0] < 0 < domain[1]:
        return None
    sign = 1 if domain[0] >= 0 else -1
    return Inverse(lambda _params, y: sign * _root(y, n), (0.0, math.inf))


def _root(y: Array, n: int) -> Array:
    return jnp.sqrt(y) if n == 2 else y ** (1 / n)


def _logit(_params, y):
    return jnp.log(y) - jnp.log1p(-y)


def _log_subtract(_params, y, other):
    return y + jnp.log(-jnp.expm1(other - y))


_HALF = math.pi / 2

_ON_INTERVALS = {
    "abs": [
        ((0.0, math.inf), Inverse(lambda _p, y: y, (0.0, math.inf))),
        ((-math.inf, 0.0), Inverse(lambda _p, y: -y, (0.0, math.inf))),
    ],
    "relu": [((0.0, math.inf), Inverse(lambda _p, y: y, (0.0, math.inf)))],
    "sin": [((-_HALF, _HALF), Inverse(lambda _p, y: jnp.arcsin(y), (-1.0, 1.0)))],
    "cos": [((0.0, math.pi), Inverse(lambda _p, y: jnp.arccos(y), (-1.0, 1.0)))],
    "tan": [((-_HALF, _HALF), Inverse(lambda _p, y: jnp.arctan(y)))],
    "cosh": [((0.0, math.inf), Inverse(lambda _p, y: jnp.arccosh(y), (1.0, math.inf)))],
}

# what is constant somewhere
_FLAT = {"floor", "ceil", "round", "sign", "clamp", "rem", "argmax", "argmin", "sort", "is_finite"}

_POSITIVE = (0.0, math.inf)

_INVERSES: dict[str, tuple] = {
    "neg": (Inverse(lambda _p, y: -y),),
    "copy": (Inverse(lambda _p, y: y),),
    "exp": (Inverse(lambda _p, y: jnp.log(y), _POSITIVE),),
    "exp2": (Inverse(lambda _p, y: jnp.log2(y), _POSITIVE),),
    "expm1": (Inverse(lambda _p, y: jnp.log1p(y), (-1.0, math.inf)),),
    "log": (Inverse(lambda _p, y: jnp.exp(y)),),
    "log2": (Inverse(lambda _p, y: jnp.exp2(y)),),
    "log1p": (Inverse(lambda _p, y: jnp.expm1(y)),),
    "tanh": (Inverse(lambda _p, y: jnp.arctanh(y), (-1.0, 1.0)),),
    "logistic": (Inverse(_logit, (0.0, 1.0)),),
    "logit": (Inverse(lambda _p, y: jax.nn.sigmoid(y)),),
    "erf": (Inverse(lambda _p, y: jax.lax.erf_inv(y), (-1.0, 1.0)),),
    "erf_inv": (Inverse(lambda _p, y: jax.lax.erf(y)),),
    "sqrt": (Inverse(lambda _p, y: y**2, _POSITIVE),),
    "rsqrt": (Inverse(lambda _p, y: y**-2, _POSITIVE),),
    "cbrt": (Inverse(lambda _p, y: y**3),),
    "asin": (Inverse(lambda _p, y: jnp.sin(y), (-_HALF, _HALF)),),
    "acos": (Inverse(lambda _p, y: jnp.cos(y), (0.0, math.pi)),),
    "atan": (Inverse(lambda _p, y: jnp.tan(y), (-_HALF, _HALF)),),
    "sinh": (Inverse(lambda _p, y: jnp.arcsinh(y)),),
    "asinh": (Inverse(lambda _p, y: jnp.sinh(y)),),
    "acosh": (Inverse(lambda _p, y: jnp.cosh(y), _POSITIVE),),
    "atanh": (Inverse(lambda _p, y: jnp.tanh(y)),),
    "add": (Inverse(lambda _p, y, b: y - b), Inverse(lambda _p, y, a: y - a)),
    "add_any": (Inverse(lambda _p, y, b: y - b), Inverse(lambda _p, y, a: y - a)),
    "sub": (Inverse(lambda _p, y, b: y + b), Inverse(lambda _p, y, a: a - y)),
    "mul": (Inverse(lambda _p, y, b: y / b), Inverse(lambda _p, y, a: y / a)),
    "div": (Inverse(lambda _p, y, b: y * b), Inverse(lambda _p, y, a: a / y)),
    "pow": (
        Inverse(lambda _p, y, a: jnp.power(y, 1 / a), _POSITIVE),
        Inverse(lambda _p, y, x: jnp.log(y) / jnp.log(x), _POSITIVE),
    ),
    "logaddexp": (Inverse(_log_subtract), Inverse(_log_subtract)),
}
