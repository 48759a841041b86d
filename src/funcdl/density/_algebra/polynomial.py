r"""Polynomials in atoms with exact coefficients, in which cancellation happens before rounding.

The derivative :math:`1/(1+|x|) - |x|/(1+|x|)^2` of softsign loses all digits in float32 at
:math:`10^{10}`. As a polynomial in :math:`A=|x|` and :math:`D=1+A` it is
:math:`(D - A)\,D^{-2} = D^{-2}`, which loses none.
"""

import math
from collections.abc import Iterable
from fractions import Fraction

# A polynomial is a dictionary from monomials to rational coefficients; a monomial is a set of pairs
# (atom, power). Floats are rational numbers, so all coefficients are exact. Atoms are tuples:
#   (ABS, k)       the magnitude of the k-th root, a variable that is not taken apart
#   (SIGN, k)      its sign, 1 or -1, so that x is SIGN * ABS and |x| is ABS
#   (EXP, m)       the exponential of a monomial; exp(-x) is its power -1
#   (SUM, terms)   a polynomial of several terms with another power than 1, such as a denominator
#   (LOG, atom)    the logarithm of an atom
#   (ERFC, (m, c)) the complementary error function of a monomial times c
# Invariant of ``collected``: the powers of a SUM in the terms of a polynomial differ by fractions
# only, because higher ones are multiplied out, and a numerator that contains the SUM as a factor is
# divided by it. So sums over a common denominator cancel as they do on paper.
# Sets and tuples of numbers hash equally in every process, hence all orders are reproducible.

ABS, SIGN, EXP, SUM, LOG, ERFC = range(6)
UNIT: frozenset = frozenset()
Polynomial = dict[frozenset, Fraction]
Rational = int | float | Fraction

_MOST = 24  # terms; larger polynomials take longer to trace than they are worth


class NoForm(Exception):
    """An expression has no form, or too large a one."""


def constant(c: Rational) -> Polynomial:
    """Return a constant polynomial."""
    return {UNIT: Fraction(c)} if c else {}


def atom(a: tuple, power: Rational = 1) -> Polynomial:
    """Return a power of an atom as a polynomial."""
    return {frozenset([(a, Fraction(power))]): Fraction(1)}


def plus(p: Polynomial, q: Polynomial) -> Polynomial:
    """Add polynomials."""
    return collected([*p.items(), *q.items()])


def scaled(p: Polynomial, c: Rational) -> Polynomial:
    """Multiply a polynomial by a constant."""
    return {m: Fraction(c) * a for m, a in p.items()} if c else {}


def times(p: Polynomial, q: Polynomial) -> Polynomial:
    """Multiply polynomials."""
    return collected((joined(m, n), a * b) for m, a in p.items() for n, b in q.items())


def joined(m: frozenset, n: frozenset) -> frozenset:
    """Multiply monomials."""
    powers = dict(m)
    for a, power in n:
        powers[a] = powers.get(a, Fraction(0)) + power
    return frozenset((a, p % 2 if a[0] == SIGN else p) for a, p in powers.items()
                     if (p % 2 if a[0] == SIGN else p))  # fmt: skip


def collected(terms: Iterable) -> Polynomial:
    """Add like terms, over common powers of the sums in them.

    Returns:
        The polynomial.

    Raises:
        NoForm: If there are too many terms.
    """
    p = _like(terms)
    for _ in range(16):
        expanded = _expanded(p)
        if expanded is None:
            return _reflected(_divided(p))
        p = expanded
    raise NoForm


def _reflected(p: Polynomial) -> Polynomial:
    """Write 2 - erfc(x) as erfc(-x)."""
    for m, c in p.items():
        for a, own in m:
            rest = m - {(a, own)}
            if a[0] == ERFC and own == 1 and p.get(rest) == -2 * c:
                others = {n: b for n, b in p.items() if n not in (m, rest)}
                mirrored = (ERFC, (a[1][0], -a[1][1]))
                return collected(
                    [*others.items(), (joined(rest, frozenset([(mirrored, own)])), -c)]
                )
    return p


def _like(terms: Iterable) -> Polynomial:
    p: Polynomial = {}
    for m, c in terms:
        p[m] = p.get(m, Fraction(0)) + c
    p = {m: c for m, c in p.items() if c}
    if len(p) > _MOST:
        raise NoForm
    return p


def sums(p: Polynomial) -> list:
    """List the sums among the factors of a polynomial's terms."""
    return list(dict.fromkeys(a for m in p for a, _ in m if a[0] == SUM))


def _expanded(p: Polynomial) -> Polynomial | None:
    """Multiply out one sum whose powers differ by an integer, or are too high; None if none do."""
    for a in sums(p):
        powers = {m: dict(m).get(a, Fraction(0)) for m in p}
        lowest: dict = {}
        for power in powers.values():
            lowest[power % 1] = min(lowest.get(power % 1, power % 1), power)
        if all(power == lowest[power % 1] for power in powers.values()):
            continue
        terms = []
        for m, c in p.items():
            least = lowest[powers[m] % 1]
            rest = joined(m, frozenset([(a, least - powers[m])]))
            part: Polynomial = {rest: c}
            for _ in range(int(powers[m] - least)):
                part = _like((joined(k, n), b * d) for k, b in part.items() for n, d in a[1])
            terms += part.items()
        return _like(terms)
    return None


def _divided(p: Polynomial) -> Polynomial:
    """Cancel a sum in a denominator that is a factor of its numerator."""
    for a in sums(p):
        for own in {dict(m).get(a, Fraction(0)) for m in p}:
            if own >= 0:
                continue
            part = {joined(m, frozenset([(a, -own)])): c for m, c in p.items() if (a, own) in m}
            quotient = _quotient(part, dict(a[1]))
            if quotient is not None:
                rest = [(m, c) for m, c in p.items() if (a, own) not in m]
                risen = frozenset([(a, own + 1)]) if own != -1 else UNIT
                return collected([*rest, *((joined(m, risen), c) for m, c in quotient.items())])
    return p


def _quotient(p: Polynomial, q: Polynomial) -> Polynomial | None:
    """Divide polynomials; None if the division leaves a rest."""
    if len(p) < 2:
        return None
    atoms = list(dict.fromkeys(a for m in (*p, *q) for a, _ in m))
    lead = lambda r: max(r, key=lambda m: tuple(dict(m).get(a, 0) for a in atoms))
    top, quotient, steps = lead(q), {}, len(p) + 2
    inverse = frozenset((a, -power) for a, power in top)
    while p and steps:
        m = joined(lead(p), inverse)
        quotient[m] = c = p[lead(p)] / q[top]
        p, steps = _like([*p.items(), *((joined(m, n), -c * b) for n, b in q.items())]), steps - 1
    return None if p else quotient


def factored(p: Polynomial) -> tuple[Fraction, frozenset]:
    """Write a polynomial as a constant times a monomial, with a new sum if it has several terms.

    Returns:
        The constant and the monomial.

    Raises:
        NoForm: If the polynomial is 0.
    """
    if not p:
        raise NoForm
    if len(p) == 1:
        ((m, c),) = p.items()
        return c, m
    common = shared(p)
    inverse = frozenset((a, -power) for a, power in common)
    terms = {joined(m, inverse): c for m, c in p.items()}
    size = abs(terms[min(terms, key=hash)])
    c = -size if direction(terms) == -1 else size
    total = SUM, frozenset(scaled(terms, 1 / c).items())
    return c, joined(common, frozenset([(total, Fraction(1))]))


def shared(p: Polynomial) -> frozenset:
    """Return the largest monomial that divides all terms."""
    atoms = dict.fromkeys(a for m in p for a, _ in m if a[0] != SIGN)
    least = {a: min(dict(m).get(a, Fraction(0)) for m in p) for a in atoms}
    return frozenset((a, power) for a, power in least.items() if power)


def power(p: Polynomial, exponent: Rational) -> Polynomial:
    """Raise a polynomial to a power.

    Where a root of x is real, x is positive, so the sign of one of its factors may be unknown.

    Returns:
        The power, as a polynomial.

    Raises:
        NoForm: If the power is not an integer and the signs of several factors are unknown.
    """
    exponent = Fraction(exponent)
    if exponent.denominator == 1 and 0 <= exponent <= 4:
        result = constant(1)
        for _ in range(int(exponent)):
            result = times(result, p)
        return result
    c, m = factored(p) if exponent.denominator == 1 else _positive(p)
    outer = Fraction(float(c) ** float(exponent)) if c != 1 else c
    return collected([(_powered(m, exponent), outer)])


def _positive(p: Polynomial) -> tuple[Fraction, frozenset]:
    """Write a polynomial, where it is positive, as a positive constant times a positive monomial.

    Returns:
        The constant and the monomial.

    Raises:
        NoForm: If the signs of several factors are unknown.
    """
    c, m = factored(p)
    unknown = [(a, own) for a, own in m if not _sign(frozenset([(a, own)]))]
    if len(unknown) > 1 or (not unknown and direction({m: c}) != 1):
        raise NoForm
    for a, own in unknown:
        rest = m - {(a, own)}
        if own % 2 != 1 or (a[0] == LOG and c < 0):
            raise NoForm
        if c < 0 and a[0] == SUM:
            a = SUM, frozenset((n, -b) for n, b in a[1])
        m = rest if a[0] == SIGN else rest | {(a, own)}
    return abs(c), m


def _powered(m: frozenset, exponent: Fraction) -> frozenset:
    return joined(UNIT, frozenset((a, p * exponent) for a, p in m))


def exponential(p: Polynomial) -> Polynomial:
    """Return the exponential of a polynomial, as a product of powers of atoms.

    Returns:
        A polynomial of one term.

    Raises:
        NoForm: If a constant in it is too large.
    """
    if len(p) > 1:  # the terms stay together, because x - y may be small where x and y are not
        c, m = factored(p)
        p = {m: c}
    result, outer = UNIT, Fraction(1)
    for m, c in p.items():
        if not m:
            outer *= Fraction(_exp(float(c)))
            continue
        ((a, own), *others) = m
        is_log = a[0] == LOG and own == 1 and not others
        factor = frozenset([(a[1], c)]) if is_log else frozenset([((EXP, m), c)])
        result = joined(result, factor)
    return collected([(result, outer)])


def _exp(c: float) -> float:
    if abs(c) > 300:
        raise NoForm
    return math.exp(c)


def erfc(p: Polynomial) -> Polynomial:
    """Return the complementary error function of a polynomial."""
    c, m = factored(p)
    return atom((ERFC, (m, c)))


def logarithm(p: Polynomial) -> Polynomial:
    """Return the logarithm of a polynomial; where it is real, the polynomial is positive.

    Returns:
        The logarithm, as a polynomial.

    Raises:
        NoForm: If the signs of several of its factors are unknown.
    """
    c, m = _positive(p)
    terms = [(UNIT, Fraction(math.log(c)))] if c != 1 else []
    for a, own in m:
        is_exp = a[0] == EXP
        terms.append((a[1] if is_exp else frozenset([((LOG, a), Fraction(1))]), own))
    return collected(terms)


def direction(p: Polynomial) -> int:
    """Return the sign that all terms of a polynomial have, 0 if they differ or it is not known."""
    signs = {(1 if c > 0 else -1) * _sign(m) for m, c in p.items()}
    return signs.pop() if len(signs) == 1 else 0


def _sign(m: frozenset) -> int:
    sign = 1
    for a, own in m:
        own_sign = 0 if a[0] in (SIGN, LOG) else direction(dict(a[1])) if a[0] == SUM else 1
        if own % 2 and own.denominator == 1:  # an even power is positive, and so is a root
            sign *= own_sign
    return sign
