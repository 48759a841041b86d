"""Signs of roots in polynomials, and equal polynomials whose terms have one sign."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product as combinations
from typing import Any

from funcdl.density._algebra.polynomial import (
    ABS,
    ERFC,
    EXP,
    SIGN,
    SUM,
    Polynomial,
    atom,
    constant,
    direction,
    erfc,
    exponential,
    plus,
    power,
    scaled,
    sums,
    times,
)

# A difference that is left in a derivative may vanish where one root has a known sign, or by the
# third binomial formula. So x + sqrt(x^2 + 1) has two cases, and both are sums of positive terms.


def is_bare(p: Polynomial) -> bool:
    """Tell whether a polynomial is made of roots themselves, not only of functions of them."""
    atoms = [a for m in p for a, _ in m]
    return any(a[0] == ABS or (a[0] == SUM and is_bare(dict(a[1]))) for a in atoms)


def signs_of(p: Polynomial) -> list[int]:
    """Return the roots whose signs a polynomial contains, at any depth."""
    found: dict[int, None] = {}

    def walk(m: Any) -> None:
        for a, _ in m:
            if a[0] == SIGN:
                found[a[1]] = None
            elif a[0] == SUM:
                for inner, _ in a[1]:
                    walk(inner)

    for m in p:
        walk(m)
    return list(found)


def with_signs(p: Polynomial, signs: dict[int, int]) -> Polynomial:
    """Replace the signs of roots by numbers.

    Returns:
        The polynomial where the roots have these signs.

    Raises:
        NoForm: If there are too many terms.
    """
    for number, sign in signs.items():
        p = _resigned(p, number, sign, is_lifted=False)
    return p


def without_magnitude(p: Polynomial, number: int, sign: int) -> Polynomial:
    """Write the magnitude of a root of known sign as the root itself, times that sign.

    Returns:
        A polynomial that is equal where the root has the sign.

    Raises:
        NoForm: If there are too many terms.
    """
    return _resigned(p, number, sign, is_lifted=True)


def _resigned(p: Polynomial, number: int, sign: int, is_lifted: bool) -> Polynomial:
    again = lambda q: _resigned(q, number, sign, is_lifted)

    def replaced(a: tuple, own: Fraction) -> Polynomial | None:
        kind, inner = a
        if a == (SIGN, number) and not is_lifted:
            return constant(sign ** int(own))
        if a == (ABS, number) and is_lifted and own % 2 == 1:
            return times(atom((SIGN, number)), {frozenset([(a, own)]): Fraction(sign)})
        if kind == SUM:
            return power(again(dict(inner)), own)
        if kind == EXP:
            return exponential(scaled(again({inner: Fraction(1)}), own))
        if kind == ERFC:
            return power(erfc(scaled(again({inner[0]: Fraction(1)}), inner[1])), own)
        return None

    return _substituted(p, replaced)


def sound(p: Polynomial) -> Polynomial | None:
    """Return an equal polynomial whose evaluation loses no digits that its roots have, or None.

    A sum of terms of one sign loses none; the digits that a sum of two terms loses are
    lost in the value of the function too.
    """
    if not p or direction(p):
        return p
    changed = {}
    for a in sums(p):
        inner = sound(dict(a[1]))
        if inner is None:
            return None
        if inner != dict(a[1]):
            changed[a] = inner
    if changed:
        p = _substituted(p, lambda a, own: power(changed[a], own) if a in changed else None)
    if direction(p):
        return p
    conjugated = _conjugated(p)
    if conjugated is not None:
        return conjugated
    return p if len(p) <= 2 and not _halves(p) else None


def _substituted(p: Polynomial, replaced: Callable) -> Polynomial:
    """Replace powers of atoms by ``replaced(atom, power)``, unless that is None."""
    total: Polynomial = {}
    for m, c in p.items():
        product = constant(c)
        for a, own in m:
            new = replaced(a, own)
            product = times(product, atom(a, own) if new is None else new)
        total = plus(total, product)
    return total


Cases = list[tuple[dict[int, int], Polynomial]]
_MOST_SIGNS = 2


def cases(p: Polynomial) -> Cases | None:
    """Return equal polynomials whose evaluation loses no digits, for each combination of signs.

    Returns:
        Pairs of the signs of some roots and the polynomial for them; None if a
        difference is left.

    Raises:
        NoForm: If there are too many terms.
    """
    if direction(p) or not p:
        return [({}, p)]
    numbers = signs_of(p)
    if len(numbers) > _MOST_SIGNS:
        return None
    found = []
    for signs in combinations((1, -1), repeat=len(numbers)):
        chosen: dict[int, int] = dict(zip(numbers, signs))
        own = sound(with_signs(p, chosen) if chosen else p)
        if own is None:
            return None
        found.append((chosen, own))
    same = all(own == found[0][1] for _, own in found)
    return [({}, found[0][1])] if same else found


def _halves(p: Polynomial) -> list:
    """Return the sums of which p contains square roots."""
    return [
        a for a in sums(p) if any((own % 1).denominator == 2 for m in p for b, own in m if a == b)
    ]


def _conjugated(p: Polynomial) -> Polynomial | None:
    r"""Write :math:`a + b\sqrt r` as :math:`(a^2 - b^2 r)/(a - b\sqrt r)` if this has one sign."""
    for a in _halves(p):
        has_root = {m: any(a == b and own % 1 for b, own in m) for m in p}
        conjugate = {m: -c if has_root[m] else c for m, c in p.items()}
        numerator = times(p, conjugate)
        if direction(numerator) and direction(conjugate):
            return times(numerator, power(conjugate, -1))
    return None
