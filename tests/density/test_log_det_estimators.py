"""Estimated log-determinants against dense ones: the mean, the error bar, the bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density
from residual import ESTIMATES, N, X, arguments, dense, residual


def over_seeds(name: str, seeds: int):
    estimate = jax.vmap(lambda key, *args: ESTIMATES[name](*args, key=key), (0, None, None))
    keys = jax.random.split(jax.random.key(1), seeds)
    return jax.jit(estimate)(keys, *arguments())


def covered(name: str, seeds: int):
    found = over_seeds(name, seeds)
    error = np.asarray(found.value, float) - float(dense(residual, *arguments()))
    return error, np.asarray(found.stderr, float)


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_mean_is_the_dense_log_determinant_and_two_error_bars_cover_it(name):
    error, bar = covered(name, 40)
    assert abs(error.mean()) <= 3 * error.std() / 40**0.5 + 1e-5
    assert (np.abs(error) <= 2 * bar + 1e-5).mean() >= 0.85
    np.testing.assert_allclose(np.sqrt((bar**2).mean()), error.std(), rtol=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATES)
def test_two_standard_errors_cover_the_truth_for_nine_seeds_of_ten(name):
    error, bar = covered(name, 200)
    assert 0.90 <= (np.abs(error) <= 2 * bar).mean() <= 0.99
    np.testing.assert_allclose(np.sqrt((bar**2).mean()), np.sqrt((error**2).mean()), rtol=0.25)


@pytest.mark.usefixtures("x64")
def test_what_is_cut_off_is_within_the_bound_of_the_docstring():
    """All products are exact where J is a multiple of the identity."""
    lipschitz = 0.7
    log_det = density.power_series_log_det(lambda x: -lipschitz * x)
    for terms in (1, 5, 10):
        found = log_det(jnp.asarray(X), key=jax.random.key(0), terms=terms, probes=2).value
        bias = abs(float(found) - N * np.log(1 - lipschitz))
        bound = N * lipschitz ** (terms + 1) / ((terms + 1) * (1 - lipschitz))
        assert 0.3 * bound < bias <= bound


def test_the_number_of_products_is_the_number_that_were_made():
    x, weights = arguments()
    key = jax.random.key(0)
    assert ESTIMATES["lanczos"](x, weights, key=key, probes=4, steps=5).matvecs == 40
    assert ESTIMATES["power series"](x, weights, key=key, terms=3, probes=4).matvecs == 12
    counts = [
        int(ESTIMATES["roulette"](x, weights, key=k).matvecs) for k in jax.random.split(key, 9)
    ]
    assert 5 < np.mean(counts) / 32 < 7  # 2 + (1 - p) / p = 6


def test_points_may_be_trees_and_calls_compile_once():
    traced = []

    def g(x, scale):
        traced.append(x)
        return {"a": scale * x["b"][:2], "b": scale * jnp.concatenate([x["a"], x["a"][:1]])}

    x = {"a": jnp.ones(2), "b": jnp.ones(3)}
    estimates = [
        jax.jit(functools.partial(make(f), probes=200))
        for make, f in (
            (density.lanczos_log_det, lambda x, s: jax.tree.map(jnp.add, x, g(x, s))),
            (density.power_series_log_det, g),
            (density.roulette_log_det, g),
        )
    ]
    flat = lambda v: jnp.concatenate(
        [v[:2] + 0.3 * v[2:4], v[2:] + 0.3 * v[jnp.asarray([0, 1, 0])]]
    )
    true = dense(flat, jnp.ones(5))
    for estimate in estimates:
        found = estimate(x, 0.3, key=jax.random.key(0))
        np.testing.assert_allclose(found.value, true, atol=5 * float(found.stderr) + 1e-5)
        before = len(traced)
        estimate(x, 0.2, key=jax.random.key(1))
        assert len(traced) == before
