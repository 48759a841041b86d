"""Densities carried through functions, against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.experimental import checkify

from funcdl import density


def normal(x):
    return jax.scipy.stats.norm.logpdf(x).sum()


def test_the_log_normal_density():
    y = jnp.array([0.2, 1.0, 3.0])
    found = jax.jit(jax.vmap(density.pushforward(normal, jnp.exp)))(y)
    np.testing.assert_allclose(found, scipy.stats.lognorm.logpdf(y, 1.0), rtol=1e-5)


def test_outside_of_the_image_the_density_is_zero():
    assert density.pushforward(normal, jnp.exp)(jnp.array([-1.0])) == -jnp.inf
    assert density.pushforward(normal, jax.nn.sigmoid)(jnp.array([0.5, 1.5])) == -jnp.inf


def test_a_linear_map_of_a_normal_is_normal():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 3)), rng.normal(size=3)
    y = rng.normal(size=3).astype("float32")
    found = jax.jit(density.pushforward(normal, lambda x: a @ x + b))(y)
    expected = scipy.stats.multivariate_normal.logpdf(y, b, a @ a.T)
    assert np.isclose(found, expected, rtol=1e-4)


def test_pullback_and_pushforward_are_inverse_to_each_other():
    f = lambda x: x + 0.5 * jnp.tanh(x[::-1])
    x = jnp.array([0.3, -1.2])
    there = density.pullback(density.pushforward(normal, f), f)
    assert np.isclose(jax.jit(there)(x), normal(x), atol=1e-5)


def test_samples_carry_their_density(key):
    draw = density.sample_and_log_prob(lambda key: jax.random.normal(key, (2,)), normal, jnp.sinh)
    y, log_q = jax.jit(draw)(key)
    assert np.isclose(log_q, density.pushforward(normal, jnp.sinh)(y), atol=1e-5)


def test_a_density_integrates_to_one():
    f = lambda x, a: x + a * jnp.tanh(x)
    y = jnp.linspace(-9, 9, 2001)
    log_q = density.pushforward(lambda x: jax.scipy.stats.norm.logpdf(x), f)
    mass = jnp.trapezoid(jnp.exp(jax.jit(jax.vmap(lambda y: log_q(y, 0.7)))(y)), y)
    assert np.isclose(mass, 1, atol=1e-4)


def test_branches_sum_to_the_density_of_chi_squared():
    square = density.pushforward_branches(normal, jnp.square, [jnp.sqrt, lambda y: -jnp.sqrt(y)])
    y = jnp.array([0.1, 1.0, 4.0])
    found = jax.jit(jax.vmap(square))(y)
    np.testing.assert_allclose(found, scipy.stats.chi2.logpdf(y, 1), rtol=1e-5)
    assert square(jnp.array(-1.0)) == -jnp.inf


def test_masses_of_discrete_variables_are_summed():
    log_mass = lambda k: jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))[k]
    halves = density.pushforward_branches(
        log_mass, lambda k: k // 2, [lambda j: 2 * j, lambda j: 2 * j + 1]
    )
    np.testing.assert_allclose(jnp.exp(halves(jnp.array(0))), 0.3, rtol=1e-6)


def test_the_density_on_a_sphere_integrates_to_one():
    def sphere(angles):
        theta, phi = angles
        return jnp.array(
            [jnp.sin(theta) * jnp.cos(phi), jnp.sin(theta) * jnp.sin(phi), jnp.cos(theta)]
        )

    _, log_volume = jax.jit(density.value_and_log_volume(sphere))(jnp.array([0.7, 2.0]))
    assert np.isclose(jnp.exp(log_volume), np.sin(0.7), rtol=1e-5)
    _, flat = density.value_and_log_volume(lambda x: jnp.stack([x[0], x[0], x[0]]))(jnp.ones(2))
    assert flat == -jnp.inf


def test_what_does_not_converge_is_nan_and_says_so():
    f = lambda x, a: x + a * jnp.sin(x)  # folds for a > 1
    y = jnp.array([0.3])
    assert np.isnan(density.inverse(f)(y, jnp.array(3.0))).all()
    assert np.isclose(f(density.inverse(f)(y, jnp.array(0.5)), 0.5), y).all()
    error, _ = checkify.checkify(jax.jit(density.inverse(f)))(y, jnp.array(3.0))
    assert "not injective" in error.get()
    assert "sin at" in error.get()


@pytest.mark.parametrize("transform", [density.pullback, density.pushforward])
def test_a_map_that_folds_is_refused_with_file_and_line(transform):
    told = r"integer_pow at .*test_pushforward.py:\d+"
    with pytest.raises(density.NotInjectiveError, match=told):
        transform(normal, lambda x: x**2)(jnp.ones(2))


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e10])
def test_units_do_not_decide_which_branches_count(scale):
    log_p = lambda x: normal(x / scale) - jnp.log(scale)
    halves = [lambda y: y, lambda y: -y / 2]
    folded = density.pushforward_branches(log_p, lambda x: jnp.where(x > 0, x, -2 * x), halves)
    inverses = [lambda y: jnp.log(y / scale) * scale, lambda y: y]
    one = density.pushforward_branches(log_p, lambda x: jnp.exp(x / scale) * scale, inverses)
    y = jnp.float32(0.7 * scale)
    expected = jnp.logaddexp(log_p(y), log_p(-y / 2) - jnp.log(2))
    np.testing.assert_allclose(folded(y), expected, rtol=1e-5)
    expected = log_p(jnp.log(0.7) * scale) - jnp.log(0.7)
    np.testing.assert_allclose(one(y), expected, rtol=1e-5)  # the second branch is none


@pytest.mark.parametrize("f", [jnp.abs, lambda x: jnp.where(x < 0, -x, x)])
def test_a_fold_has_both_branches_at_the_kink(f):
    folded = density.pushforward_branches(normal, f, [lambda y: y, lambda y: -y])
    np.testing.assert_allclose(folded(0.0), np.log(2) + normal(0.0), rtol=1e-6)


def test_a_branch_that_meets_0_by_rounding_counts():
    cosine = density.pushforward_branches(
        normal, jnp.cos, [jnp.arccos, lambda y: -jnp.arccos(y), lambda y: 2 * np.pi - jnp.arccos(y)]
    )
    expected = np.logaddexp(normal(np.pi / 2) + np.log(2), normal(1.5 * np.pi))
    np.testing.assert_allclose(cosine(0.0), expected, rtol=1e-5)
