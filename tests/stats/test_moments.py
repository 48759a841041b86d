"""Means and covariances in one pass and in pieces, where the mean is large and where rows lack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import stats

X = (cases.normal(0, 3000, 2) @ [[1.0, 0.5], [0.0, 1.0]] + 1e6).astype(np.float32)
EXACT = np.cov(X.astype(float).T)


@jax.jit
def streamed(chunks, weights):
    def add(so_far, chunk):
        return stats.merge(so_far, stats.moments(*chunk)), None

    return jax.lax.scan(add, stats.moments(chunks[0, :0]), (chunks, weights))[0]


def test_a_float32_stream_at_a_large_mean_has_the_covariance_of_float64():
    got = streamed(jnp.asarray(X.reshape(30, 100, 2)), jnp.ones((30, 100)))
    np.testing.assert_allclose(got.covariance, EXACT, rtol=1e-6)
    np.testing.assert_allclose(got.variance, np.diag(EXACT), rtol=1e-6)
    mean = np.asarray(got.mean, float) + np.asarray(got.rest, float)
    np.testing.assert_allclose(mean, X.astype(float).mean(axis=0), rtol=1e-13)
    assert got.weight == 3000


def test_the_covariance_at_once_is_that_of_float64():
    np.testing.assert_allclose(stats.covariance(jnp.asarray(X)), EXACT, rtol=1e-5)
    half = stats.covariance(jnp.asarray(X[:100], jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_a_ragged_tail_is_padded_with_rows_of_weight_zero():
    x = X[:400].reshape(4, 100, 2)
    weights = np.ones((4, 100), np.float32)
    weights[3, 30:] = 0
    got = streamed(jnp.asarray(x), jnp.asarray(weights))
    np.testing.assert_allclose(got.covariance, np.cov(X[:330].astype(float).T), rtol=1e-5)
    whole = stats.covariance(jnp.asarray(X[:400]), jnp.asarray(weights.reshape(-1)))
    np.testing.assert_allclose(whole, got.covariance, rtol=1e-5)


def test_a_weight_counts_how_often_a_row_came():
    x, counts = cases.normal(1, 5, 2), np.asarray([1, 3, 2, 0, 1])
    got = stats.covariance(jnp.asarray(x, jnp.float32), jnp.asarray(counts, jnp.float32))
    np.testing.assert_allclose(got, np.cov(np.repeat(x, counts, axis=0).T), rtol=1e-5)


def test_no_rows_are_neutral_and_the_order_makes_no_difference():
    a, b = (stats.moments(jnp.asarray(x)) for x in (X[:70], X[70:100]))
    none = stats.moments(jnp.zeros((0, 2)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(none))
    for same in (stats.merge(a, none), stats.merge(none, a)):
        jax.tree.map(np.testing.assert_array_equal, same, a)
    jax.tree.map(np.testing.assert_array_equal, stats.merge(a, b), stats.merge(b, a))
    both = stats.merge(none, none)
    assert jnp.isnan(both.covariance).all()
    assert both.weight == 0
    assert jnp.isnan(stats.covariance(jnp.ones((1, 2)))).all()


@pytest.mark.usefixtures("x64")
def test_moments_are_differentiable_twice_in_both_modes():
    def both(x, y, weights):
        merged = stats.merge(stats.moments(x, weights), stats.moments(y))
        return merged.mean + merged.rest, merged.covariance

    inputs = cases.normal(0, 4, 2), cases.normal(1, 3, 2), np.asarray([1.0, 2.0, 0.5, 1.0])
    cases.check_second(both, inputs)


def test_a_batch_is_what_its_parts_are():
    x = jnp.asarray(X[:40].reshape(2, 20, 2))
    got = jax.jit(jax.vmap(stats.covariance))(x)
    np.testing.assert_allclose(got, [stats.covariance(part) for part in x], rtol=1e-5)
