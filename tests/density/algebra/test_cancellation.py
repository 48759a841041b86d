"""Derivatives across several operations keep their digits where terms of the chain rule cancel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import log_sigmoid, sigmoid, softplus
from jax.scipy.special import log_ndtr, ndtr

from funcdl import density

LOG_2 = np.log(2)
log_tanh_slope = lambda x: 2 * (LOG_2 - jnp.abs(x) - jnp.log1p(jnp.exp(-2 * jnp.abs(x))))
log_logistic_slope = lambda x: log_sigmoid(x) + log_sigmoid(-x)
algebraic = lambda x: -1.5 * jnp.log1p(x**2)
log_normal = lambda x: -(x**2) / 2 - jnp.log(2 * jnp.pi) / 2
LARGE = [-1e18, -1e10, -1e4, -3.0, 0.5, 1e4, 1e10]
TAILS = [-60.0, -20.0, -3.0, 0.25, 5.0, 20.0, 60.0]
POSITIVE = [1e-8, 1e-4, 0.5, 3.0, 20.0]
NORMAL = [-5.0, -0.3, 1.0, 3.0, 6.0]

# a function, the logarithm of its derivative, and points
FUNCTIONS = {
    "softsign": (lambda x: x / (1 + jnp.abs(x)), lambda x: -2 * jnp.log1p(jnp.abs(x)), LARGE),
    "softsign of a difference": (
        lambda x: (x - 3) / 2 / (1 + jnp.abs((x - 3) / 2)),
        lambda x: -LOG_2 - 2 * jnp.log1p(jnp.abs(x - 3) / 2),
        [-1e10, 0.0, 1e4],
    ),
    "odds": (lambda x: x / (1 - x), lambda x: -2 * jnp.log(jnp.abs(1 - x)), LARGE),
    "linear fraction": (
        lambda x: (2 * x + 1) / (3 * x + 4),
        lambda x: jnp.log(5) - 2 * jnp.log(jnp.abs(3 * x + 4)),
        LARGE,
    ),
    "1 - 1 / (1 + x)": (lambda x: 1 - 1 / (1 + x), lambda x: -2 * jnp.log1p(x), [1e-4, 3.0, 1e4]),
    "sqrt": (lambda x: x / jnp.sqrt(1 + x**2), algebraic, LARGE),
    "rsqrt": (lambda x: x * jax.lax.rsqrt(1 + x * x), algebraic, LARGE),
    "power 0.5": (lambda x: x / (1 + x**2) ** 0.5, algebraic, LARGE),
    "algebraic distribution": (
        lambda x: (1 + x / jnp.sqrt(1 + x * x)) / 2,
        lambda x: algebraic(x) - LOG_2,
        LARGE,
    ),
    "Hill": (
        lambda x: x**2 / (1 + x**2),
        lambda x: jnp.log(2 * x) - 2 * jnp.log1p(x**2),
        [0.5, 1e4, 1e8],
    ),
    "squareplus": (
        lambda x: (x + jnp.sqrt(x * x + 4)) / 2,
        lambda x: -jnp.log1p(jnp.exp(-2 * jnp.arcsinh(x / 2))),
        [-1e8, -1e4, -10.0, 0.0, 1e4],
    ),
    "tanh by exponentials": (
        lambda x: (jnp.exp(x) - jnp.exp(-x)) / (jnp.exp(x) + jnp.exp(-x)),
        log_tanh_slope,
        [*TAILS, 100.0],
    ),
    "tanh by one exponential": (lambda x: 2 / (1 + jnp.exp(-2 * x)) - 1, log_tanh_slope, TAILS),
    "logistic by hand": (lambda x: 1 / (1 + jnp.exp(-x)), log_logistic_slope, [-100.0, *TAILS]),
    "logistic by cases": (
        lambda x: jnp.where(x > 0, 1 / (1 + jnp.exp(-x)), jnp.exp(x) / (1 + jnp.exp(x))),
        log_logistic_slope,
        TAILS,
    ),
    "complement": (lambda x: jnp.log(1 - sigmoid(x)), log_sigmoid, TAILS),
    "complement by log1p": (lambda x: jnp.log1p(-sigmoid(x)), log_sigmoid, TAILS),
    "logit of logistic": (
        lambda x: jnp.log(sigmoid(x) / (1 - sigmoid(x))),
        lambda x: 0.0 * x,
        TAILS,
    ),
    "arctanh of tanh": (lambda x: jnp.arctanh(jnp.tanh(x)), lambda x: 0.0 * x, TAILS),
    "arcsin of tanh": (lambda x: jnp.arcsin(jnp.tanh(x)), lambda x: log_tanh_slope(x) / 2, TAILS),
    "arctan of sinh": (lambda x: jnp.arctan(jnp.sinh(x)), lambda x: log_tanh_slope(x) / 2, TAILS),
    "log sech^2": (
        lambda x: jnp.log(1 - jnp.tanh(x) ** 2),
        lambda x: jnp.log(2 * jnp.abs(jnp.tanh(x))),
        TAILS,
    ),
    "log(1 - exp(-x))": (
        lambda x: jnp.log(1 - jnp.exp(-x)),
        lambda x: -jnp.log(jnp.expm1(x)),
        POSITIVE,
    ),
    "softplus by hand": (lambda x: jnp.log(1 + jnp.exp(x)), log_sigmoid, [*TAILS, 100.0, 200.0]),
    "inverse of softplus": (
        lambda x: jnp.log(jnp.exp(x) - 1),
        lambda x: x - jnp.log(jnp.expm1(x)),
        [1e-4, 0.3, 20.0],
    ),
    "x - log(1 + x)": (
        lambda x: x - jnp.log1p(x),
        lambda x: jnp.log(x) - jnp.log1p(x),
        [1e-5, 1e-3, 1.0, 1e4],
    ),
    "complement of erf": (
        lambda x: jnp.log(1 - jax.lax.erf(x)),
        lambda x: LOG_2 / 2 + log_normal(x * 2**0.5) - log_ndtr(-x * 2**0.5),
        NORMAL,
    ),
    "normal survival": (
        lambda x: jnp.log(1 - ndtr(x)),
        lambda x: log_normal(x) - log_ndtr(-x),
        NORMAL,
    ),
}


def agree(found, expected, scale=0.0):
    """Compare in float32: logarithms are added, so rounding is absolute."""
    eps = np.finfo("float32").eps
    (value, slope), (right, right_slope) = found, expected
    np.testing.assert_allclose(value, right, atol=8 * eps * (4 + scale), rtol=8 * eps)
    np.testing.assert_allclose(slope, right_slope, atol=64 * eps, rtol=eps**0.5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_whose_derivative_is_a_difference(name):
    f, log_slope, points = FUNCTIONS[name]
    points = np.asarray(points, "float32")
    found = jax.jit(jax.vmap(jax.value_and_grad(density.log_abs_det_jacobian(f))))(points)
    with jax.enable_x64(True):
        wide = jnp.asarray(points.astype("float64"))
        expected = jax.vmap(jax.value_and_grad(log_slope))(wide)
    agree(found, expected, scale=np.abs(points).max() if max(points) < 1e3 else 0)


def logistic_parts(x):
    return [sigmoid(x[k]) for k in range(len(x))]


def broken_by_product(x):
    rest, pieces = 1.0, []
    for z in logistic_parts(x):
        pieces.append(rest * z)
        rest = rest * (1 - z)
    return jnp.stack(pieces)


def broken_by_difference(x):
    rest, pieces = 1.0, []
    for z in logistic_parts(x):
        pieces.append(rest * z)
        rest = rest - pieces[-1]
    return jnp.stack(pieces)


def broken_by_cumprod(x):
    z = sigmoid(x)
    return z * jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - z)[:-1]])


def broken_by_cumsum(x):
    z = sigmoid(x)
    return z * jnp.exp(jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.log(1 - z))[:-1]]))


@pytest.mark.parametrize(
    "f", [broken_by_product, broken_by_difference, broken_by_cumprod, broken_by_cumsum]
)
@pytest.mark.parametrize("n", [3, 5])
def test_breaking_a_stick(f, n):
    points = np.asarray([[20.0] * n, [-20.0] * n, np.linspace(-60, 60, n), np.linspace(1, -1, n)])

    def log_det(x):
        return (log_logistic_slope(x) - jnp.arange(n)[::-1] * softplus(x)).sum()

    found = jax.jit(jax.vmap(jax.value_and_grad(density.log_abs_det_jacobian(f))))(
        jnp.asarray(points, jnp.float32)
    )
    with jax.enable_x64(True):
        expected = jax.vmap(jax.value_and_grad(log_det))(jnp.asarray(points))
    agree(found, expected, scale=60.0)


def test_the_complement_of_a_parameter():
    f = lambda x, a: x * (1 - sigmoid(a))
    found = density.log_abs_det_jacobian(f)(jnp.ones(2), jnp.array([40.0, 200.0]))
    np.testing.assert_allclose(found, -240.0, rtol=1e-6)


def test_a_sum_that_is_lost_in_rounding_counts_as_zero():
    f = lambda x: jnp.sqrt(x + 1) - jnp.sqrt(x)
    for x in (1e7, 1e9):
        assert density.log_abs_det_jacobian(f)(x) == -np.inf


def test_second_derivatives_and_both_modes_of_a_difference(x64):
    for f in (FUNCTIONS["softsign"][0], FUNCTIONS["squareplus"][0], FUNCTIONS["complement"][0]):
        ours = density.log_abs_det_jacobian(f)
        dense = lambda x, f=f: jnp.log(jax.grad(f)(x))
        for mode in (jax.jacfwd(jax.grad(ours)), jax.grad(jax.grad(ours))):
            for x in (-2.0, 0.7):
                expected = jax.grad(jax.grad(dense))(x)
                np.testing.assert_allclose(jax.jit(mode)(x), expected, rtol=1e-9)


def test_ordinary_maps_keep_their_plans():
    from funcdl.density._analysis import analyze

    maps = (
        lambda x: jnp.tanh(x) * jnp.exp(jnp.sin(x)) + x,
        lambda x: jnp.log(x + 3),
        lambda x: sigmoid(x * jnp.exp(0.3) + 1.5),
        lambda x: x + 0.5 * jnp.tanh(x),
    )
    for f in maps:
        analysis = analyze(jax.make_jaxpr(f)(jnp.ones(3)), [0], [0])
        assert all(part.exact() is part.paths for plan in analysis.plans for part in plan.parts)


@pytest.mark.parametrize("c", [1e-30, 1e-20, 1e-8, 1e8, 1e15, 1e20])
def test_units_do_not_matter(c):
    """Coefficients and their squares leave the range of float32 before the result does."""
    x = c * jnp.asarray([1e-3, 1.0, -7.0, 1e6], jnp.float32)
    u = np.abs(np.asarray(x, np.float64) / c)
    maps = {
        "softsign": (lambda x: x / (1 + jnp.abs(x / c)), -2 * np.log1p(u)),
        "sqrt": (lambda x: x / jnp.sqrt(1 + (x / c) ** 2), -1.5 * np.log1p(u**2)),
    }
    for f, expected in maps.values():
        found = jax.vmap(density.log_abs_det_jacobian(f))(x)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
