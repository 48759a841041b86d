"""Means over draws, whose errors are what they say, and divergences of mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import cases
from funcdl import stats
from funcdl.stats import gaussian, mixture, monte_carlo
from funcdl.stats.gaussian import Gaussian

P = Gaussian(jnp.asarray([0.5]), jnp.asarray([[1.0]]))
Q = Gaussian(jnp.asarray([0.0]), jnp.asarray([[2.0]]))


def density(params):
    return Partial(gaussian.log_prob, params)


def sampler(params):
    return Partial(gaussian.sample, params=params)


def test_a_mean_lies_within_its_error_as_often_as_it_should(key):
    def moments(x):
        return jnp.stack([x[0], x[0] ** 2])

    @jax.jit
    @jax.vmap
    def runs(key):
        mean, error, _ = stats.expectation(moments, sampler(P), key=key, samples=200)
        return jnp.abs(mean - jnp.asarray([0.5, 1.25])) < 1.96 * error

    covered = runs(jax.random.split(key, 500)).mean(axis=0)
    np.testing.assert_allclose(covered, 0.95, atol=0.04)


def test_an_event_has_the_mean_of_its_probability(key):
    def positive(x):
        return x[0] > 0.5

    mean, error, _ = stats.expectation(positive, sampler(P), key=key, samples=3000)
    assert abs(mean - 0.5) < 4 * error
    np.testing.assert_allclose(error, 0.5 / 3000**0.5, rtol=0.01)


@pytest.mark.parametrize("name", ["entropy", "cross_entropy", "kl"])
def test_draws_of_gaussians_give_the_closed_forms(key, name):
    densities = {"entropy": (P,), "cross_entropy": (Q,), "kl": (P, Q)}[name]
    exact = getattr(gaussian, name)(*((P,) if name == "entropy" else (P, Q)))
    estimate = getattr(monte_carlo, name)
    got = estimate(*map(density, densities), sampler(P), key=key, samples=5000)
    assert abs(got.value - exact) < 4 * got.stderr
    assert got.stderr < 0.02


def test_the_divergence_of_mixtures_is_that_of_quadrature(key):
    def make(shift):
        means = jnp.asarray([[-1.0], [shift]])
        return mixture.Mixture(
            jnp.log(jnp.asarray([0.3, 0.7])), Gaussian(means, jnp.ones((2, 1, 1)))
        )

    p, q = make(2.0), make(3.0)
    grid = jnp.linspace(-10, 12, 2001)[:, None]
    log_p, log_q = (jax.vmap(mixture.log_prob, (None, 0))(m, grid) for m in (p, q))
    exact = (jnp.exp(log_p) * (log_p - log_q)).sum() * (22 / 2000)
    densities = (Partial(mixture.log_prob, m) for m in (p, q))
    got = monte_carlo.kl(*densities, Partial(mixture.sample, params=p), key=key, samples=5000)
    assert abs(got.value - exact) < 4 * got.stderr
    assert got.stderr < 0.05 * exact


def test_what_q_excludes_is_infinitely_far(key):
    def box(x):
        return jnp.where(jnp.abs(x[0]) < 1, -jnp.log(2.0), -jnp.inf)

    assert monte_carlo.kl(density(P), box, sampler(P), key=key).value == jnp.inf


def test_other_parameters_and_keys_are_no_new_compilation(key):
    square = lambda x: x[0] ** 2
    samplers, keys = [sampler(params) for params in (P, Q, P)], list(jax.random.split(key, 3))
    stats.expectation(square, samplers[0], key=keys[0], samples=10)
    names = []
    note = lambda event, *_, **__: names.append(event)
    jax.monitoring.register_event_duration_secs_listener(note)
    for draw, own in zip(samplers[1:], keys[1:]):
        stats.expectation(square, draw, key=own, samples=10)
    jax.monitoring.unregister_event_duration_listener(note)
    assert not any(name.endswith("backend_compile_duration") for name in names)


@pytest.mark.usefixtures("x64")
def test_an_estimate_is_differentiable_twice_in_both_modes(key):
    def divergence(mean, root):
        p = Gaussian(mean, root @ root.T + jnp.eye(1))
        q = Gaussian(jnp.zeros(1), 2 * jnp.eye(1))
        return monte_carlo.kl(density(p), density(q), sampler(p), key=key, samples=20)[:2]

    cases.check_second(divergence, (np.asarray([0.3]), np.asarray([[0.7]])))


def test_an_expectation_follows_what_its_functions_close_over(key):
    scale, sampled = np.ones(1, "float32"), []
    f, sample = lambda x: scale[0] * x, lambda key: jnp.float32(2.0 + len(sampled))
    first = expectation_value(f, sample, key)
    scale *= 3
    sampled.append(1)
    np.testing.assert_allclose([first, expectation_value(f, sample, key)], [2.0, 9.0])


def expectation_value(f, sample, key):
    return stats.expectation(f, sample, key=key, samples=4).value
