"""Error bars hold what they say: two of them cover the truth for nine seeds of ten."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import operators

KEY = jax.random.key(1)
N, SEEDS, DAMPING = 60, 200, 0.1
SPECTRA = {
    "flat": 1 + 0.2 * np.sin(np.arange(N)),
    "slow": 1 / np.sqrt(1 + np.arange(N)),
    "fast": 0.8 ** np.arange(N),
}
GRID = np.linspace(-0.5, 1.5, 5)


def moments(A, key):
    density = operators.spectral_density(A, key=key)
    return operators.spectral_mean(density, lambda x: x ** jnp.arange(1.0, 4.0))


def density(A, key):
    return operators.smoothed_density(
        operators.spectral_density(A, key=key), jnp.asarray(GRID, jnp.float32), 0.3
    )


def damped_logdet(A, key):
    return operators.logdet(A, key=key, damping=DAMPING)


def named(f):
    return lambda A, key: f(A, key=key)


def bells(values):
    at = (GRID[:, None] - values) / 0.3
    return np.exp(-(at**2) / 2).mean(1) / (0.3 * np.sqrt(2 * np.pi))


# an estimate, and the truth from the matrix and its eigenvalues
ESTIMATES = {
    "trace": (named(operators.trace), lambda a, v: v.sum()),
    "hutch_pp": (named(operators.hutch_pp), lambda a, v: v.sum()),
    "xtrace": (named(operators.xtrace), lambda a, v: v.sum()),
    "diagonal": (named(operators.diagonal), lambda a, v: np.diag(a)),
    "frobenius": (named(operators.frobenius), lambda a, v: np.linalg.norm(a)),
    "logdet": (damped_logdet, lambda a, v: np.log(v + DAMPING).sum()),
    "moments": (moments, lambda a, v: np.stack([(v**p).mean() for p in (1, 2, 3)])),
    "density": (density, lambda a, v: bells(v)),
}


@functools.cache
def over_seeds(name):
    estimate = jax.vmap(ESTIMATES[name][0], in_axes=(None, 0))
    return jax.jit(lambda A: estimate(A, jax.random.split(KEY, SEEDS)))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", ESTIMATES)
def test_two_standard_errors_cover_the_truth_for_nine_seeds_of_ten(name, spectrum):
    """With the default number of probes; the mean over the entries where there are several."""
    a = cases.symmetric(SPECTRA[spectrum])
    found = over_seeds(name)(operators.from_dense(jnp.asarray(a, jnp.float32), psd=True))
    error = np.asarray(found.value, np.float64) - ESTIMATES[name][1](a, SPECTRA[spectrum])
    assert 0.90 <= (np.abs(error) <= 2 * np.asarray(found.stderr)).mean() <= 0.99
    # the error bar is the spread over the seeds, neither half of it nor twice
    bar = np.sqrt((np.asarray(found.stderr) ** 2).mean(0))
    np.testing.assert_allclose(bar, np.sqrt((error**2).mean(0)), rtol=0.25)
