"""Exact polynomials: cancellation, division, roots, signs."""

from fractions import Fraction

import pytest

from funcdl.density._algebra.polynomial import (
    ABS,
    SIGN,
    NoForm,
    atom,
    collected,
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
from funcdl.density._algebra.signs import cases, with_signs, without_magnitude

ONE = constant(1)
A = atom((ABS, 0))
X = times(atom((SIGN, 0)), A)
E = exponential(X)


def minus(p, q):
    return plus(p, scaled(q, -1))


def test_terms_over_a_common_denominator_cancel():
    inverse = power(plus(ONE, E), -1)
    assert minus(ONE, times(E, inverse)) == inverse
    assert plus(times(E, inverse), inverse) == ONE
    root = power(plus(ONE, times(X, X)), 0.5)
    assert minus(times(root, root), times(X, X)) == ONE
    assert minus(ONE, times(times(X, X), power(root, -2))) == power(root, -2)


def test_exponentials_and_logarithms_undo_each_other():
    assert exponential(scaled(X, -1)) == power(E, -1)
    assert logarithm(E) == X
    assert exponential(scaled(logarithm(plus(ONE, A)), 2)) == power(plus(ONE, A), 2)
    assert times(E, exponential(scaled(X, -1))) == ONE


def test_erfc_is_reflected():
    assert minus(constant(2), erfc(X)) == erfc(scaled(X, -1))
    assert minus(ONE, scaled(erfc(X), 0.5)) == scaled(erfc(scaled(X, -1)), 0.5)


def test_signs_of_terms():
    assert direction(plus(ONE, A)) == 1
    assert direction(minus(scaled(A, -1), ONE)) == -1
    assert direction(plus(ONE, X)) == 0
    assert direction(times(X, X)) == 1
    assert direction(power(plus(ONE, X), -2)) == 1


def test_cases_are_without_differences():
    root = power(plus(ONE, times(X, X)), -0.5)
    found = cases(plus(ONE, times(X, root)))
    assert [signs for signs, _ in found] == [{0: 1}, {0: -1}]
    assert all(direction(p) == 1 for _, p in found)
    assert cases(minus(plus(ONE, power(A, 3)), A)) is None


def test_the_magnitude_of_a_root_of_known_sign_is_the_root():
    p = exponential(scaled(A, -1))
    positive = with_signs(exponential(scaled(X, -1)), {0: 1})
    assert positive == p
    assert without_magnitude(p, 0, 1) == exponential(scaled(X, -1))
    assert without_magnitude(p, 0, -1) == E


def test_what_has_no_form_is_refused():
    with pytest.raises(NoForm):
        power(times(X, times(atom((SIGN, 1)), atom((ABS, 1)))), 0.5)
    with pytest.raises(NoForm):
        power({}, -1)
    with pytest.raises(NoForm):
        collected((frozenset([((ABS, k), Fraction(1))]), Fraction(1)) for k in range(40))
    assert power(scaled(A, 4), Fraction(1, 2)) == scaled(power(A, 0.5), 2)
