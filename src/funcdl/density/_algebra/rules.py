"""How each primitive acts on polynomials: the value, and the derivative by each operand."""

import math
from collections.abc import Callable
from fractions import Fraction

from funcdl.density._algebra.polynomial import (
    UNIT,
    NoForm,
    Polynomial,
    Rational,
    constant,
    direction,
    erfc,
    exponential,
    logarithm,
    plus,
    power,
    scaled,
    times,
)

ONE = constant(1)
Result = tuple[Polynomial, list[Polynomial]]


def _minus(p: Polynomial, q: Polynomial) -> Polynomial:
    return plus(p, scaled(q, -1))


def _div(_params: dict, _own: Polynomial, a: Polynomial, b: Polynomial) -> Result:
    inverse = power(b, -1)
    value = times(a, inverse)
    return value, [inverse, scaled(times(value, inverse), -1)]


def _raised(a: Polynomial, exponent: Rational) -> Result:
    exponent = Fraction(exponent)
    value = power(a, exponent)
    return value, [scaled(power(a, exponent - 1), exponent) if exponent else {}]


def _pow(_params: dict, _own: Polynomial, a: Polynomial, b: Polynomial) -> Result:
    if any(b) or not b:
        raise NoForm
    value, (slope,) = _raised(a, b[UNIT])
    return value, [slope, {}]


def _exp(base: float) -> Callable:
    def rule(_params: dict, _own: Polynomial, a: Polynomial) -> Result:
        value = exponential(scaled(a, base))
        return value, [scaled(value, base)]

    return rule


def _expm1(_params: dict, _own: Polynomial, a: Polynomial) -> Result:
    value = exponential(a)
    return _minus(value, ONE), [value]


def _log(base: float) -> Callable:
    def rule(_params: dict, own: Polynomial, a: Polynomial) -> Result:
        return _logarithm_or(a, own, base), [scaled(power(a, -1), base)]

    return rule


def _log1p(params: dict, own: Polynomial, a: Polynomial) -> Result:
    return _log(1.0)(params, own, plus(a, ONE))


def _logarithm_or(a: Polynomial, own: Polynomial, base: float) -> Polynomial:
    """Return the logarithm, or the variable that holds it if the sign of a is not known."""
    try:
        return scaled(logarithm(a), base)
    except NoForm:
        return own


def _logistic(_params: dict, _own: Polynomial, a: Polynomial) -> Result:
    e = exponential(a)
    value = times(e, power(plus(ONE, e), -1))
    return value, [times(value, _minus(ONE, value))]


def _tanh(_params: dict, _own: Polynomial, a: Polynomial) -> Result:
    e = exponential(scaled(a, 2))
    value = times(_minus(e, ONE), power(plus(e, ONE), -1))
    return value, [_minus(ONE, times(value, value))]


def _erfc(_params: dict, _own: Polynomial, a: Polynomial) -> Result:
    slope = scaled(exponential(scaled(times(a, a), -1)), -2 / math.sqrt(math.pi))
    return erfc(a), [slope]


def _erf(params: dict, own: Polynomial, a: Polynomial) -> Result:
    value, (slope,) = _erfc(params, own, a)
    return _minus(ONE, value), [scaled(slope, -1)]


def _hyperbolic(_params: dict, a: Polynomial, sign: int) -> Result:
    e, inverse = exponential(a), exponential(scaled(a, -1))
    sinh, cosh = (scaled(plus(e, scaled(inverse, s)), 0.5) for s in (-1, 1))
    return (sinh, [cosh]) if sign < 0 else (cosh, [sinh])


def _abs(_params: dict, _own: Polynomial, a: Polynomial) -> Result:
    """Return the magnitude; only a single term, or terms of one sign, have one."""
    sign = direction(a)
    if sign:
        return scaled(a, sign), [constant(sign)]
    if len(a) != 1:
        raise NoForm
    ((m, c),) = a.items()
    signs = frozenset((b, own) for b, own in m if b[0] == 1)
    magnitude = {m - signs: abs(c)}
    if direction(magnitude) != 1:
        raise NoForm
    return magnitude, [{signs: Fraction(1 if c > 0 else -1)}]


def _smooth(slope: Callable) -> Callable:
    """Build the rule of a function without a form of its own, whose derivative has one."""
    return lambda _params, own, a: (own, [slope(a)])


RULES: dict[str, Callable] = {
    "add": lambda _p, _own, a, b: (plus(a, b), [ONE, ONE]),
    "add_any": lambda _p, _own, a, b: (plus(a, b), [ONE, ONE]),
    "sub": lambda _p, _own, a, b: (_minus(a, b), [ONE, constant(-1)]),
    "mul": lambda _p, _own, a, b: (times(a, b), [b, a]),
    "div": _div,
    "neg": lambda _p, _own, a: (scaled(a, -1), [constant(-1)]),
    "square": lambda _p, _own, a: _raised(a, 2),
    "integer_pow": lambda p, _own, a: _raised(a, p["y"]),
    "sqrt": lambda _p, _own, a: _raised(a, 0.5),
    "rsqrt": lambda _p, _own, a: _raised(a, -0.5),
    "pow": _pow,
    "abs": _abs,
    "exp": _exp(1.0),
    "exp2": _exp(math.log(2)),
    "expm1": _expm1,
    "log": _log(1.0),
    "log2": _log(1 / math.log(2)),
    "log1p": _log1p,
    "logistic": _logistic,
    "tanh": _tanh,
    "erf": _erf,
    "erfc": _erfc,
    "sinh": lambda p, _own, a: _hyperbolic(p, a, -1),
    "cosh": lambda p, _own, a: _hyperbolic(p, a, 1),
    "atan": _smooth(lambda a: power(plus(ONE, times(a, a)), -1)),
    "asinh": _smooth(lambda a: power(plus(ONE, times(a, a)), -0.5)),
    "asin": _smooth(lambda a: power(_unit_rest(a), -0.5)),
    "acos": _smooth(lambda a: scaled(power(_unit_rest(a), -0.5), -1)),
    "atanh": _smooth(lambda a: power(_unit_rest(a), -1)),
    "logit": _smooth(lambda a: power(times(a, _minus(ONE, a)), -1)),
}

# the sums inside the derivative of a function, which may lose digits like any other
SUMS: dict[str, Callable] = {
    "log1p": lambda a: plus(ONE, a),
    "asin": lambda a: _unit_rest(a),
    "acos": lambda a: _unit_rest(a),
    "atanh": lambda a: _unit_rest(a),
    "logit": lambda a: _minus(ONE, a),
}


def _unit_rest(a: Polynomial) -> Polynomial:
    return _minus(ONE, times(a, a))
