"""Gaussians against scipy and closed forms, in float64 and where float32 is in danger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.tree_util import Partial

import cases
from funcdl.stats import gaussian
from funcdl.stats.gaussian import Gaussian

ROOT = cases.normal(0, 3, 3)
MEAN, COVARIANCE = cases.normal(1, 3), ROOT @ ROOT.T + 0.5 * np.eye(3)
POINT = cases.normal(2, 3)


@pytest.fixture
def params(x64):
    return Gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))


def test_the_density_is_that_of_scipy(params):
    expected = scipy.stats.multivariate_normal(MEAN, COVARIANCE)
    np.testing.assert_allclose(
        gaussian.log_prob(params, jnp.asarray(POINT)), expected.logpdf(POINT)
    )
    np.testing.assert_allclose(gaussian.pdf(params, jnp.asarray(POINT)), expected.pdf(POINT))
    one = gaussian.marginal(params, [1])
    expected = scipy.stats.norm(MEAN[1], COVARIANCE[1, 1] ** 0.5).cdf(0.3)
    np.testing.assert_allclose(gaussian.cdf(one, jnp.asarray([0.3])), expected)


def test_a_family_with_its_parameters_is_a_density_under_jit_and_vmap(params):
    density = Partial(gaussian.log_prob, params)
    x = jnp.asarray(cases.normal(3, 5, 3))
    got = jax.jit(lambda density, x: jax.vmap(density)(x))(density, x)
    np.testing.assert_allclose(got, [gaussian.log_prob(params, row) for row in x], rtol=1e-12)


def test_densities_are_differentiable_twice_in_both_modes(params):
    def f(mean, root, x):
        return gaussian.log_prob(Gaussian(mean, root @ root.T + jnp.eye(2)), x)

    inputs = cases.normal(4, 2), cases.normal(5, 2, 2), cases.normal(6, 2)
    cases.check_second(f, inputs)


@pytest.mark.slow
def test_what_is_made_of_gaussians_is_differentiable_twice_in_both_modes(params):
    def f(mean, root, x):
        g = Gaussian(mean, root @ root.T + jnp.eye(2))
        density, log_normalizer = gaussian.product(g, Gaussian(x, jnp.eye(2)))
        rest = gaussian.conditional(g, [0], x[:1])
        draw = gaussian.sample(jax.random.key(0), g)
        return density, log_normalizer, rest, gaussian.cdf(rest, x[1:]), draw

    inputs = cases.normal(4, 2), cases.normal(5, 2, 2), cases.normal(6, 2)
    cases.check_second(f, inputs)


@pytest.mark.slow
def test_an_ellipsoid_is_differentiable_twice_in_both_modes(params):
    def region(root, p, x):
        g = Gaussian(jnp.zeros(2), root @ root.T + jnp.eye(2))
        _, axes, lengths = gaussian.ellipsoid(g, p)
        return lengths, (axes[:, 0] * x).sum() ** 2

    inputs = cases.normal(5, 2, 2), np.asarray(0.7), cases.normal(6, 2)
    cases.check_second(region, inputs)


def test_the_ellipsoid_of_a_spherical_gaussian_has_finite_derivatives():
    """All half axes are equal: their sum has the slope of the trace, and no axis turns."""

    def region(covariance):
        _, axes, lengths = gaussian.ellipsoid(Gaussian(jnp.zeros(3), covariance), 0.7)
        return lengths.sum(), axes

    lengths, axes = jax.jit(jax.jacfwd(region))(4 * jnp.eye(3))
    slope = np.sqrt(scipy.stats.chi2(3).ppf(0.7)) / (2 * 4**0.5)  # of sqrt(q λ) at λ = 4
    np.testing.assert_allclose(lengths, slope * np.eye(3), atol=1e-6)
    np.testing.assert_array_equal(axes, 0)


def test_a_covariance_that_is_not_positive_definite_gives_nan():
    params = Gaussian(jnp.zeros(2), jnp.asarray([[1.0, 2.0], [2.0, 1.0]]))
    assert jnp.isnan(gaussian.log_prob(params, jnp.zeros(2)))


def test_draws_have_the_mean_and_the_covariance(params):
    draws = jax.vmap(gaussian.sample, (0, None))(
        jax.random.split(jax.random.key(0), 20_000), params
    )
    error = 5 * (np.diag(COVARIANCE) / len(draws)) ** 0.5
    assert (np.abs(draws.mean(0) - MEAN) < error).all()
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=5 * 2**0.5 * 6 / len(draws) ** 0.5)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_is_the_weighted_mean_and_covariance(weighted):
    x, w = cases.normal(0, 40, 3), np.abs(cases.normal(1, 40))
    mean, covariance = gaussian.fit(
        jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32) if weighted else None
    )
    w = w if weighted else np.ones(40)
    np.testing.assert_allclose(mean, np.average(x, axis=0, weights=w), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(x.T, aweights=w, ddof=0), rtol=1e-5, atol=1e-6)


def test_a_large_mean_costs_a_float32_fit_no_digits():
    x = cases.normal(0, 500, 2) + 1e5
    x = x.astype(np.float32)
    exact = np.cov(x.astype(float).T, ddof=0)
    np.testing.assert_allclose(gaussian.fit(jnp.asarray(x)).covariance, exact, rtol=1e-5, atol=1e-5)


def test_the_fit_maximises_the_likelihood(params):
    x = jnp.asarray(cases.normal(0, 50, 3))

    def likelihood(params):
        return jax.vmap(gaussian.log_prob, (None, 0))(params, x).mean()

    slope = jax.jit(jax.grad(likelihood))(gaussian.fit(x))
    np.testing.assert_allclose(slope.mean, 0, atol=1e-10)
    np.testing.assert_allclose(slope.covariance, 0, atol=1e-10)


def test_the_joint_density_is_the_marginal_times_the_conditional(params):
    x = jnp.asarray(POINT)
    for known, rest in (([1], [0, 2]), ([2, 0], [1])):
        given = gaussian.conditional(params, known, x[jnp.asarray(known)])
        marginal = gaussian.marginal(params, known)
        total = gaussian.log_prob(marginal, x[jnp.asarray(known)])
        total += gaussian.log_prob(given, x[jnp.asarray(rest)])
        np.testing.assert_allclose(total, gaussian.log_prob(params, x))


def test_the_product_of_densities_is_a_density_times_its_normalizer(params):
    other = Gaussian(jnp.asarray(cases.normal(8, 3)), 1e-6 * jnp.eye(3))
    density, log_normalizer = gaussian.product(params, other)
    x = other.mean + 1e-3
    np.testing.assert_allclose(
        gaussian.log_prob(density, x) + log_normalizer,
        gaussian.log_prob(params, x) + gaussian.log_prob(other, x),
    )


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.95, 0.999])
def test_an_ellipsoid_holds_its_probability(params, probability):
    center, axes, lengths = map(np.asarray, gaussian.ellipsoid(params, probability))
    q = scipy.stats.chi2(3).ppf(probability)
    values = np.linalg.eigvalsh(COVARIANCE)[::-1]
    np.testing.assert_allclose(lengths, np.sqrt(q * values), rtol=1e-10)
    np.testing.assert_allclose((axes * values) @ axes.T, COVARIANCE, atol=1e-12)
    ends = center[:, None] + axes * lengths
    inside = [(p - MEAN) @ np.linalg.solve(COVARIANCE, p - MEAN) for p in ends.T]
    np.testing.assert_allclose(inside, q)


def test_the_ellipsoid_of_no_and_of_all_probability():
    unit = Gaussian(jnp.zeros(2), jnp.eye(2))
    assert (gaussian.ellipsoid(unit, 0.0).lengths == 0).all()
    assert jnp.isinf(gaussian.ellipsoid(unit, 1.0).lengths).all()
    small = gaussian.ellipsoid(unit, 1e-6).lengths  # sqrt(-2 log(1 - p))
    np.testing.assert_allclose(small, 1e-3 * 2**0.5, rtol=1e-5)
