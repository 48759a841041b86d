r"""Proof that the diagonal of a triangular map keeps its sign: bounds of its derivatives.

:math:`x + \tfrac12\tanh x` has a derivative in :math:`(1, 1.5]`. A bound of 0 is not attained but
at single points; where a derivative may vanish on an interval the bound is just below 0.
"""

import math
from collections.abc import Callable

from funcdl.density._jacobian.entries import Paths, Term
from funcdl.density._primitives.bounds import Interval, plus, times
from funcdl.density._primitives.edges import unit

_BELOW = -5e-324  # 0 is attained on an interval
_ONE = (1.0, 1.0)
_ANY = (-math.inf, math.inf)
# a result is one of its operands
_CHOICES = ("select_n", "max", "min")


def keeps_sign(plan: Paths, bounds: Callable) -> bool:
    """Tell whether each entry of a plan is proved positive everywhere, or negative everywhere.

    Args:
        plan: Of the diagonal's entries.
        bounds: ``operand -> (low, high)``.

    Returns:
        False where no proof was found.
    """
    found: dict = dict.fromkeys(plan.inputs, _ONE)
    for slot, _, terms in plan.terms:
        parts = [times(found[t.step.operands[t.at]], _slope(t, bounds)) for t in terms]
        if not parts:
            found[slot] = (_BELOW, 0.0)
        elif terms[0].step.name in _CHOICES:
            found[slot] = min(a for a, _ in parts), max(b for _, b in parts)
        else:
            total = parts[0]
            for part in parts[1:]:
                total = plus(total, part)
            found[slot] = total
    signs = [found[slot] for slot, _ in plan.outputs]
    return all(low >= 0 or high <= 0 for low, high in signs) and (0.0, 0.0) not in signs


def _slope(term: Term, bounds: Callable) -> Interval:
    """Bounds of the derivative of one step by one operand."""
    step = term.step
    if term.slope is unit or step.name in (*_CHOICES, "add", "add_any"):
        return _choice(step, term, bounds)
    x = [bounds(o) for o in step.operands]
    rule = _SLOPES.get(step.name)
    return rule(term.at, x, bounds(step.results[0]), step.equation.params) if rule else _ANY


def _choice(step, term: Term, bounds: Callable) -> Interval:
    if step.name in ("max", "min"):
        other = step.operands[1 - term.at]
        constant = bounds(other)[0] == bounds(other)[1]
        return (_BELOW, 1.0) if constant else _ONE
    return _ONE


def _inverse(x: Interval) -> Interval:
    if x[0] < 0 < x[1]:
        return _ANY
    with_sign = -1 if x[1] <= 0 else 1
    low, high = sorted(abs(v) for v in x)
    bounds = (1 / high if high else math.inf, 1 / low if low else math.inf)
    return bounds if with_sign > 0 else (-bounds[1], -bounds[0])


def _power(_at, x, _y, params) -> Interval:
    n = params.get("y", 2)
    low, high = x[0]
    if n % 2 and n > 0:  # n x^(n-1) vanishes at 0 alone
        return (0.0, math.inf)
    if low >= 0 or high <= 0:
        sign = n * (1 if low >= 0 else (-1) ** (n - 1))
        return (0.0, math.inf) if sign > 0 else (-math.inf, 0.0)
    return _ANY


_SLOPES: dict[str, Callable] = {
    "neg": lambda _at, _x, _y, _p: (-1.0, -1.0),
    "copy": lambda _at, _x, _y, _p: _ONE,
    "sub": lambda at, _x, _y, _p: _ONE if at == 0 else (-1.0, -1.0),
    "mul": lambda at, x, _y, _p: x[1 - at],
    "div": lambda at, x, _y, _p: _inverse(x[1]) if at == 0 else _ANY,
    "exp": lambda _at, _x, y, _p: y,
    "expm1": lambda _at, _x, _y, _p: (0.0, math.inf),
    "log": lambda _at, _x, _y, _p: (0.0, math.inf),
    "log1p": lambda _at, _x, _y, _p: (0.0, math.inf),
    "sqrt": lambda _at, _x, _y, _p: (0.0, math.inf),
    "cbrt": lambda _at, _x, _y, _p: (0.0, math.inf),
    "tanh": lambda _at, _x, _y, _p: (0.0, 1.0),
    "logistic": lambda _at, _x, _y, _p: (0.0, 0.25),
    "logaddexp": lambda _at, _x, _y, _p: (0.0, 1.0),
    "erf": lambda _at, _x, _y, _p: (0.0, 2 / math.sqrt(math.pi)),
    "erf_inv": lambda _at, _x, _y, _p: (0.0, math.inf),
    "atan": lambda _at, _x, _y, _p: (0.0, 1.0),
    "sinh": lambda _at, _x, _y, _p: (1.0, math.inf),
    "asinh": lambda _at, _x, _y, _p: (0.0, 1.0),
    "atanh": lambda _at, _x, _y, _p: (1.0, math.inf),
    "asin": lambda _at, _x, _y, _p: (1.0, math.inf),
    "sin": lambda _at, _x, _y, _p: (-1.0, 1.0),
    "cos": lambda _at, _x, _y, _p: (-1.0, 1.0),
    "abs": lambda _at, x, _y, _p: _ONE if x[0][0] >= 0 else (-1.0, 1.0),
    "relu": lambda _at, x, _y, _p: _ONE if x[0][0] >= 0 else (_BELOW, 1.0),
    "integer_pow": _power,
    "square": _power,
}
