"""Rational-quadratic splines against their formula, their knots and their inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from funcdl.flows import rational_quadratic, rational_quadratic_inverse

WIDTHS = np.asarray([0.5, 1.5, 0.25, 1.75])
HEIGHTS = np.asarray([1.0, 0.25, 2.0, 0.75])
SLOPES = np.asarray([0.5, 2.0, 0.1, 3.0, 1.5])
EDGES = np.concatenate([[0.0], np.cumsum(WIDTHS)]) - 2
IMAGES = np.concatenate([[0.0], np.cumsum(HEIGHTS)]) - 2


def cast(dtype=None):
    return tuple(jnp.asarray(a, dtype or jnp.result_type(float)) for a in (WIDTHS, HEIGHTS, SLOPES))


def formula(x):
    """Durkan et al., equation 4, one number at a time."""
    if x < EDGES[0]:
        return IMAGES[0] + SLOPES[0] * (x - EDGES[0])
    if x > EDGES[-1]:
        return IMAGES[-1] + SLOPES[-1] * (x - EDGES[-1])
    k = min(int(np.searchsorted(EDGES, x, side="right")) - 1, 3)
    s, t = HEIGHTS[k] / WIDTHS[k], (x - EDGES[k]) / WIDTHS[k]
    top = HEIGHTS[k] * (s * t**2 + SLOPES[k] * t * (1 - t))
    return IMAGES[k] + top / (s + (SLOPES[k + 1] + SLOPES[k] - 2 * s) * t * (1 - t))


def many(f):
    return jax.jit(jax.vmap(f, in_axes=(0, None, None, None)))


GRID = np.concatenate([np.linspace(-4, 4, 203), EDGES])


@pytest.mark.usefixtures("x64")
def test_the_value_is_the_formula_and_the_inverse_brings_it_back():
    y = many(rational_quadratic)(jnp.asarray(GRID), *cast())
    np.testing.assert_allclose(y, [formula(x) for x in GRID], atol=1e-14)
    np.testing.assert_allclose(y[-5:], IMAGES, atol=1e-15)
    x = many(rational_quadratic_inverse)(y, *cast())
    np.testing.assert_allclose(x, GRID, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_the_slope_is_positive_continuous_and_that_of_the_knots():
    slope = many(jax.grad(rational_quadratic))
    np.testing.assert_allclose(slope(jnp.asarray(EDGES), *cast()), SLOPES, rtol=1e-12)
    for side in (-1e-9, 1e-9):
        found = slope(jnp.asarray(EDGES + side), *cast())
        np.testing.assert_allclose(found, SLOPES, rtol=1e-6)
    assert (slope(jnp.asarray(GRID), *cast()) > 0).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("f", [rational_quadratic, rational_quadratic_inverse])
def test_derivatives_to_order_two_are_those_of_differences(f):
    args = jnp.asarray([-3.0, -1.7, -0.3, 0.1, 1.1, 2.5]), *cast()
    flat, unravel = ravel_pytree(args)
    weights = jnp.arange(1.0, 7.0)
    total = lambda v: jax.vmap(f, in_axes=(0, None, None, None))(*unravel(v)) @ weights
    steps = 1e-5 * jnp.eye(len(flat))
    difference = lambda g: (
        (jax.vmap(g)(flat[None] + steps) - jax.vmap(g)(flat[None] - steps)) / 2e-5
    )
    gradient, hessian = jax.grad(total), jax.jacfwd(jax.grad(total))
    found, expected = jax.jit(
        lambda: (
            (gradient(flat), hessian(flat), jax.grad(lambda v: gradient(v).sum())(flat)),
            (difference(total), difference(gradient)),
        )
    )()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found[2], found[1].sum(axis=0), rtol=1e-9, atol=1e-9)


def extremes():
    """A piece from 0 to 1, flat to steep, whose slopes at its ends do not fit; points in it."""
    rng = np.random.default_rng(0)
    s, left, right = 10 ** rng.uniform(-3, 3, (3, 2000))
    edge = 10 ** rng.uniform(-6, 0, 2000)
    t = np.where(rng.uniform(size=2000) < 0.5, edge, 1 - edge)
    one = np.ones(2000)
    columns = [one, one], [one, s], [one, left, right]
    return [np.float32(t), *(np.float32(np.stack(c, axis=1)) for c in columns)]


def true_slope(x, _, heights, slopes):
    t, s, left, right = (np.asarray(a, float) for a in (x, heights[:, 1], *slopes.T[1:]))
    o = 1 - t
    bottom = s + (left + right - 2 * s) * t * o
    return s**2 * (right * t**2 + 2 * s * t * o + left * o**2) / bottom**2


def test_the_slope_is_right_to_rounding_in_float32_where_differentiation_cancels():
    args = extremes()
    found = jax.jit(jax.vmap(jax.grad(rational_quadratic)))(*args)
    np.testing.assert_allclose(np.asarray(found, float), true_slope(*args), rtol=2e-6)


def test_the_inverse_is_right_to_rounding_in_float32():
    x, *pieces = extremes()
    both = (jax.jit(jax.vmap(f)) for f in (rational_quadratic, rational_quadratic_inverse))
    forward, inverse = both
    y = forward(x, *pieces)
    found = inverse(y, *pieces)
    rounding = np.finfo(np.float32).eps * (1 + pieces[1][:, 1] + true_slope(found, *pieces))
    assert (np.abs(forward(found, *pieces) - y) <= 4 * rounding).all()


def test_tails_are_lines_however_far():
    x = jnp.asarray([-1e30, -5.0, 5.0, 1e30])
    y = many(rational_quadratic)(x, *cast(jnp.float32))
    np.testing.assert_allclose(y, [-0.5e30, -3.5, 6.5, 1.5e30], rtol=1e-6)
    slope = many(jax.grad(rational_quadratic))(x, *cast(jnp.float32))
    np.testing.assert_allclose(slope, [0.5, 0.5, 1.5, 1.5])
    grads = jax.jit(jax.grad(rational_quadratic, argnums=(1, 2, 3)))(x[-1], *cast(jnp.float32))
    assert all(jnp.isfinite(g).all() for g in grads)
