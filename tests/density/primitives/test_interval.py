"""Intervals hold every value of their operands."""

import itertools

import numpy as np
import pytest

from funcdl.density._primitives import interval as iv

INF = np.inf
INTERVALS = [(-2.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 1.0), (-1.0, 0.0)]


def inside(x):
    return np.linspace(*x, 9)


@pytest.mark.parametrize(("x", "y"), list(itertools.product(INTERVALS, INTERVALS)))
def test_arithmetic_of_intervals_holds_the_arithmetic_of_numbers(x, y):
    a, b = np.meshgrid(inside(x), inside(y))
    for rule, value in ((iv.plus, a + b), (iv.minus, a - b), (iv.times, a * b)):
        low, high = rule(x, y)
        assert low - 1e-12 <= value.min()
        assert value.max() <= high + 1e-12


@pytest.mark.parametrize("x", INTERVALS)
@pytest.mark.parametrize("n", [-3, -2, -1, 1, 2, 3, 4])
def test_powers_and_absolute_values(x, n):
    points = inside(x)
    points = points[points != 0] if n < 0 else points
    low, high = iv.integer_power(x, n)
    assert low - 1e-12 <= (points**n).min()
    assert (points**n).max() <= high + 1e-12
    low, high = iv.absolute(x)
    assert (low, high) == (0.0 if x[0] <= 0 <= x[1] else min(map(abs, x)), max(map(abs, x)))


def test_nothing_is_known_of_the_reciprocal_around_zero():
    assert iv.reciprocal((-1.0, 1.0)) == iv.UNBOUNDED
    assert iv.reciprocal((0.0, 2.0)) == (0.5, INF)
    assert iv.reciprocal((-2.0, 0.0)) == (-INF, -0.5)
    assert iv.times((0.0, 0.0), iv.UNBOUNDED) == (0.0, 0.0)


def test_monotone_functions_map_their_ends():
    assert iv.increasing(np.log, 0.0)({}, (-5.0, 1.0)) == (-INF, 0.0)
    assert iv.decreasing(lambda x: -x)({}, (1.0, 2.0)) == (-2.0, -1.0)
