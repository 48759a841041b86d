"""Evaluate polynomials without overflow: every term is a product with an exponential."""

import math
from fractions import Fraction
from functools import reduce

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from funcdl._typing import Array
from funcdl.density._algebra.forms import Forms
from funcdl.density._algebra.polynomial import (
    ABS,
    ERFC,
    EXP,
    LOG,
    SIGN,
    SUM,
    Polynomial,
    direction,
    shared,
)
from funcdl.density._primitives.local_jacobian import widened
from funcdl.density._primitives.slope import Numbers, Slope, linear, log_magnitude, product
from funcdl.density._program.program import Equation, Variable

_LARGEST_LOG = 40.0  # of a coefficient that is a factor: products of two stay in float32


class Evaluation:
    """The values of atoms at a point.

    Attributes:
        forms: The roots and how they are computed.
        values: The values of the variables that the roots are made of.
        signs: The signs that some roots are known to have where the result is used.
    """

    def __init__(self, forms: Forms, values: dict, signs: dict[int, int]):
        self.forms, self.values, self.signs = forms, values, signs
        self._known: dict = {}

    def slope(self, p: Polynomial) -> Slope:
        """Evaluate a polynomial."""
        if not p:
            return Slope(((jnp.zeros(()), 1),))
        if len(p) == 1:
            ((m, c),) = p.items()
            return self._term(m, c)
        common = shared(p)
        inverse = [(a, -power) for a, power in common]
        rest = {_times(m, inverse): c for m, c in p.items()}
        return product(self._term(common, Fraction(1)), self._sum(rest))

    def _sum(self, p: Polynomial) -> Slope:
        (m, c), *others = p.items()
        is_exponential = all(a[0] == EXP for n in p for a, _ in n)
        if len(others) == 1 and is_exponential and others[0][1] == -c:
            return self._difference(c, m, others[0][0])
        is_positive = direction(p) != 0
        has_products = any(sum(power for a, power in n if a[0] == ABS) not in (0, 1) for n in p)
        terms = [self._term(n, c, is_positive, is_positive and has_products) for n, c in p.items()]
        return added(terms)

    def _difference(self, c: Fraction, m: frozenset, n: frozenset) -> Slope:
        r"""Evaluate :math:`c(e^a - e^b)` as :math:`c\,e^{\max(a, b)}` times an ``expm1``."""
        a, b = (self._term(x, Fraction(1)).log for x in (m, n))
        a, b = (jnp.zeros(()) if x is None else x for x in (a, b))
        d = self._term(_times(m, [(x, -power) for x, power in n]), Fraction(1)).log
        is_first = d > 0
        rest = jnp.where(
            is_first, -jnp.expm1(jnp.where(is_first, -d, 0)), jnp.expm1(jnp.where(is_first, 0, d))
        )
        return product(_coefficient(c), Slope(((rest, 1),), jnp.where(is_first, a, b)))

    def _term(
        self, m: frozenset, c: Fraction, is_log: bool = False, is_scaled: bool = False
    ) -> Slope:
        """Evaluate a monomial; ``is_log`` and ``is_scaled`` keep products of factors finite."""
        total = _coefficient(c)
        powers = dict(m)
        for a, power in m:
            if a[0] == SIGN and _is_odd(powers.get((ABS, a[1]))):
                continue  # the sign and the magnitude are the number itself
            signed = a[0] == ABS and (SIGN, a[1]) in powers and _is_odd(power)
            factor = self._atom(a, signed, is_log, is_scaled)
            exponent = int(power) if power.denominator == 1 else float(power)
            total = product(
                total,
                Slope(
                    tuple((f, k * exponent) for f, k in factor.factors),
                    None if factor.log is None else factor.log * exponent,
                ),
            )
        return total

    def _atom(self, a: tuple, signed: bool, is_log: bool, is_scaled: bool) -> Slope:
        key = a, signed, is_log, is_scaled
        if key not in self._known:
            self._known[key] = self._computed(a, signed, is_log, is_scaled)
        return self._known[key]

    def _computed(self, a: tuple, signed: bool, is_log: bool, is_scaled: bool) -> Slope:
        kind, inner = a
        if kind == EXP:
            return Slope(log=_value(self._term(inner, Fraction(1))))
        if kind == ERFC:
            x = _value(self._term(*inner))
            return Slope(log=log_ndtr(-math.sqrt(2) * x) + math.log(2))
        if kind == LOG:
            return Slope(((jnp.asarray(log_magnitude(self._atom(inner, False, False, False))), 1),))
        if kind == SUM:
            total = self.slope(dict(inner))
            is_positive = is_log and direction(dict(inner)) == 1
            return Slope(log=log_magnitude(total)) if is_positive else total
        root = self._root(inner)
        if kind == SIGN:
            return Slope(((jnp.where(linear(root)[0] >= 0, 1.0, -1.0), 1),))
        if root.log is not None:
            return root
        ((x, _),) = root.factors
        x = x if signed else jnp.abs(x)
        if not is_scaled:
            return Slope(((x, 1),))
        size = jax.lax.stop_gradient(jnp.abs(x))
        exponent = jnp.round(jnp.log2(jnp.where((size > 0) & jnp.isfinite(size), size, 1)))
        return Slope(((x * jnp.exp2(-exponent), 1),), exponent * jnp.log(jnp.asarray(2.0, x.dtype)))

    def _root(self, number: int) -> Slope:
        root = self.forms.roots[number]
        if root.repair is not None:
            slope = self._repaired(*root.repair)
        else:
            slope = Slope(((self._given(root.source), 1),))
        for equation in root.moves:
            others = [self.forms.static.value(o) for o in equation.operands[1:]]
            move = lambda x, e=equation, o=others: e.evaluate(
                jnp.asarray(x, e.operands[0].dtype), *o
            )[0]
            shape = equation.operands[0].shape
            wide = lambda x, shape=shape: jnp.broadcast_to(x, shape)
            slope = Slope(
                tuple((widened(move(wide(f))), k) for f, k in slope.factors),
                None if slope.log is None else widened(move(wide(slope.log))),
            )
        if number in self.signs:
            ((x, _),) = slope.factors
            sign = self.signs[number]
            slope = Slope(((jnp.where((x >= 0) == (sign > 0), x, 0.5 * sign), 1),))
        return slope

    def _given(self, source: Numbers) -> Array:
        is_given = isinstance(source, Variable) and source in self.values
        value = self.values[source] if is_given else self.forms.static.value(source)
        return widened(jnp.asarray(value))

    def _repaired(self, equation: Equation, operands: list[Polynomial]) -> Slope:
        """Compute a root again from operands with more digits, in logarithms if it is positive."""
        slopes = [self.slope(p) for p in operands]
        shapes = [getattr(o, "shape", ()) for o in equation.operands]
        if equation.name in ("cumprod", "reduce_prod") and direction(operands[0]) == 1:
            log = jnp.broadcast_to(log_magnitude(slopes[0]), shapes[0])
            params = equation.eqn.params
            if equation.name == "reduce_prod":
                return Slope(log=log.sum(tuple(params["axes"])))
            return Slope(log=jax.lax.cumsum(log, params["axis"], params["reverse"]))
        if equation.name == "concatenate" and all(direction(p) == 1 for p in operands):
            logs = [jnp.broadcast_to(log_magnitude(s), n) for s, n in zip(slopes, shapes)]
            return Slope(log=jnp.concatenate(logs, equation.eqn.params["dimension"]))
        values = [jnp.broadcast_to(_value(s), n) for s, n in zip(slopes, shapes)]
        dtypes = [o.dtype for o in equation.operands]
        (y,) = equation.evaluate(*(v.astype(d) for v, d in zip(values, dtypes)))
        return Slope(((widened(y), 1),))


def _is_odd(power: Fraction | None) -> bool:
    return power is not None and power % 2 == 1


def _times(m: frozenset, factors: list) -> frozenset:
    powers = dict(m)
    for a, power in factors:
        powers[a] = powers.get(a, Fraction(0)) + power
    return frozenset((a, power) for a, power in powers.items() if power)


def _coefficient(c: Fraction) -> Slope:
    if c == 1:
        return Slope()
    # in Python, which holds more than the dtype and, by parts, more than a float
    log = math.log(abs(c.numerator)) - math.log(c.denominator)
    if abs(log) < _LARGEST_LOG:
        return Slope(((float(c), 1),))
    return Slope(((1.0 if c > 0 else -1.0, 1),), jnp.asarray(log))


def _value(slope: Slope) -> Numbers:
    value, log = linear(slope)
    return value if log is None else value * jnp.exp(log)


def added(terms: list[Slope]) -> Slope:
    """Add slopes, scaled by the largest exponent of those that are not 0."""
    parts = [linear(s) for s in terms]
    if all(log is None for _, log in parts):
        return Slope(((sum(m for m, _ in parts), 1),))
    logs = [jnp.zeros(()) if log is None else log for _, log in parts]
    heights = [jnp.where(m == 0, -jnp.inf, log) for (m, _), log in zip(parts, logs)]
    top = jax.lax.stop_gradient(reduce(jnp.maximum, heights))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    most = 0.9 * jnp.log(jnp.finfo(top.dtype).max)
    total = sum(m * jnp.exp(jnp.minimum(log - top, most)) for (m, _), log in zip(parts, logs))
    return Slope(((total, 1),), top)
