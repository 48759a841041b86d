"""Bits, labels and hypotheses: closed forms, and logits at the edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import cases
from funcdl import stats
from funcdl.stats import bernoulli, categorical
from funcdl.stats.bernoulli import Bernoulli
from funcdl.stats.categorical import Categorical

EDGE = jnp.asarray([0.5, -jnp.inf, -1.0, -100.0])


def test_log_probabilities_of_labels_are_normalized_and_do_not_depend_on_a_constant():
    logits = jnp.asarray(cases.normal(0, 5), jnp.float32)
    every = jax.vmap(categorical.log_prob, (None, 0))
    values = every(Categorical(logits), jnp.arange(5))
    np.testing.assert_allclose(values, jax.nn.log_softmax(logits), rtol=1e-6)
    np.testing.assert_allclose(every(Categorical(logits + 3), jnp.arange(5)), values, rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(values).sum(), 1, rtol=1e-6)


def test_a_logit_of_minus_infinity_is_impossible_and_spoils_no_gradient():
    for label in (0, 2, 3):
        gradient = jax.grad(lambda l, k=label: categorical.log_prob(Categorical(l), k))(EDGE)
        expected = jax.nn.one_hot(label, 4) - jax.nn.softmax(EDGE)
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert categorical.log_prob(Categorical(EDGE), 1) == -jnp.inf
    assert categorical.pmf(Categorical(EDGE), 1) == 0
    assert jnp.isfinite(jax.hessian(lambda l: categorical.log_prob(Categorical(l), 0))(EDGE)).all()


def test_a_traced_label_out_of_range_has_no_probability():
    found = jax.jit(categorical.log_prob)(Categorical(jnp.zeros(3)), jnp.asarray([3])[0])
    assert found == -jnp.inf
    assert jax.jit(categorical.log_prob)(Categorical(jnp.zeros(3)), -1) == -jnp.inf
    assert jnp.isnan(jax.jit(lambda y: categorical.fit(y, 3))(jnp.asarray([0, 3])).logits).all()


def test_draws_of_labels_come_as_often_as_they_should():
    draws = jax.vmap(categorical.sample, (0, None))(
        jax.random.split(jax.random.key(0), 10_000), Categorical(EDGE)
    )
    shares = np.bincount(draws, minlength=4) / len(draws)
    np.testing.assert_allclose(shares, jax.nn.softmax(EDGE), atol=0.025)
    assert shares[1] == 0


def test_the_fit_of_labels_is_their_shares_and_a_pseudo_count_is_laplace():
    labels = jnp.asarray([0, 0, 2, 2, 2])
    np.testing.assert_allclose(jnp.exp(categorical.fit(labels, 3).logits), [0.4, 0, 0.6], rtol=1e-6)
    smooth = categorical.fit(labels, 3, pseudo_count=1.0)
    np.testing.assert_allclose(jnp.exp(smooth.logits), [3 / 8, 1 / 8, 4 / 8], rtol=1e-6)
    weighted = categorical.fit(labels, 3, weights=jnp.asarray([0.0, 1.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(jnp.exp(weighted.logits), [0.25, 0, 0.75], rtol=1e-6)


@pytest.mark.parametrize("logit", [-100.0, -3.0, 0.0, 5.0, 100.0])
def test_a_bit_is_as_probable_as_its_logit_says(logit):
    params = Bernoulli(jnp.asarray(logit))
    p = 1 / (1 + np.exp(-float(logit)))
    expected = -np.logaddexp(0, [logit, -logit])
    np.testing.assert_allclose(
        [bernoulli.log_prob(params, b) for b in (0, 1)], expected, 1e-6, 1e-40
    )
    np.testing.assert_allclose(bernoulli.pmf(params, 1), p, 1e-5, 1e-40)
    cdf = [bernoulli.cdf(params, t).item() for t in (-0.1, 0.0, 0.9, 1.0)]
    np.testing.assert_allclose(cdf, [0, np.exp(expected[0]), np.exp(expected[0]), 1], 1e-5, 1e-40)
    for bit in (0, 1):
        slope = jax.grad(lambda l, b=bit: bernoulli.log_prob(Bernoulli(l), b))(params.logit)
        np.testing.assert_allclose(slope, bit - p, rtol=1e-5, atol=1e-30)


def test_draws_and_fits_of_bits_agree():
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.vmap(bernoulli.sample, (0, None))(keys, Bernoulli(jnp.asarray(0.7)))
    np.testing.assert_allclose(bernoulli.fit(draws).logit, 0.7, atol=0.1)
    assert bernoulli.fit(jnp.asarray([1, 1])).logit == jnp.inf
    assert bernoulli.log_prob(Bernoulli(jnp.asarray(jnp.inf)), 1) == 0
    smooth = bernoulli.fit(jnp.asarray([True, True]), pseudo_count=1.0)
    np.testing.assert_allclose(smooth.logit, np.log(3), rtol=1e-6)
    assert jax.jit(bernoulli.log_prob)(Bernoulli(jnp.asarray(0.0)), 2) == -jnp.inf


@pytest.mark.usefixtures("x64")
def test_probabilities_are_differentiable_twice_in_both_modes():
    def f(logits, log_likelihood):
        posterior = stats.bayes(jax.nn.log_softmax(logits), log_likelihood)
        return (
            categorical.log_prob(Categorical(logits), 1)
            + bernoulli.log_prob(Bernoulli(logits[0]), 0),
            posterior,
        )

    cases.check_second(f, (np.asarray([0.3, -1.0, 2.0]), np.asarray([-1.0, 0.5, 0.1])))


def test_bayes_is_the_rule_and_two_observations_come_in_any_order():
    prior = np.asarray([0.2, 0.3, 0.5])
    likelihoods = scipy.stats.binom(3, [0.1, 0.5, 0.9]).pmf([[1], [3]])
    posterior = stats.bayes(jnp.log(prior), jnp.log(likelihoods[0]))
    joint = prior * likelihoods[0]
    np.testing.assert_allclose(jnp.exp(posterior.log_evidence), joint.sum(), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(posterior.log_probs), joint / joint.sum(), rtol=1e-5)
    again = stats.bayes(posterior.log_probs, jnp.log(likelihoods[1]))
    both = stats.bayes(jnp.log(prior), jnp.log(likelihoods).sum(axis=0))
    np.testing.assert_allclose(again.log_probs, both.log_probs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        posterior.log_evidence + again.log_evidence, both.log_evidence, rtol=1e-5
    )


def test_what_is_excluded_stays_so_and_spoils_nothing():
    prior = jnp.log(jnp.asarray([0.5, 0.5, 0.0]))
    posterior = stats.bayes(prior, jnp.asarray([-jnp.inf, -2.0, jnp.inf]))
    assert posterior.log_probs.tolist() == [-jnp.inf, 0, -jnp.inf]
    posterior = stats.bayes(prior, jnp.asarray([-2000.0, -2000.0, 0.0]))
    np.testing.assert_allclose(posterior.log_probs, [np.log(0.5), np.log(0.5), -np.inf], rtol=1e-6)
    slope = jax.grad(lambda l: stats.bayes(prior, l).log_probs[0])(jnp.zeros(3))
    np.testing.assert_allclose(slope, [0.5, -0.5, 0], rtol=1e-6)
    impossible = stats.bayes(prior, jnp.full(3, -jnp.inf))
    assert impossible.log_evidence == -jnp.inf
    assert jnp.isnan(impossible.log_probs).all()
