"""Laws of what knows an operator by its products: honest errors, jit, vmap, no retrace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import cases
from funcdl import linalg

KEY = jax.random.key(1)
N, SEEDS, DAMPING = 60, 200, 0.1
SPECTRA = {
    "flat": 1 + 0.2 * np.sin(np.arange(N)),
    "slow": 1 / np.sqrt(1 + np.arange(N)),
    "fast": 0.8 ** np.arange(N),
}
GRID = np.linspace(-0.5, 1.5, 5)


def moments(A, key):
    density = linalg.spectral_density(A, key=key)
    return linalg.integrate(density, lambda x: x ** jnp.arange(1.0, 4.0))


def density(A, key):
    return linalg.smooth(linalg.spectral_density(A, key=key), jnp.asarray(GRID, jnp.float32), 0.3)


def damped_logdet(A, key):
    return linalg.logdet(A, key=key, damping=DAMPING)


def named(f):
    return lambda A, key: f(A, key=key)


def bells(values):
    at = (GRID[:, None] - values) / 0.3
    return np.exp(-(at**2) / 2).mean(1) / (0.3 * np.sqrt(2 * np.pi))


# an estimate, and the truth from the matrix and its eigenvalues
ESTIMATES = {
    "trace": (named(linalg.trace), lambda a, v: v.sum()),
    "hutch_pp": (named(linalg.hutch_pp), lambda a, v: v.sum()),
    "xtrace": (named(linalg.xtrace), lambda a, v: v.sum()),
    "diagonal": (named(linalg.diagonal), lambda a, v: np.diag(a)),
    "frobenius": (named(linalg.frobenius), lambda a, v: np.linalg.norm(a)),
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
    found = over_seeds(name)(linalg.from_dense(jnp.asarray(a, jnp.float32), psd=True))
    error = np.asarray(found.value, np.float64) - ESTIMATES[name][1](a, SPECTRA[spectrum])
    assert 0.90 <= (np.abs(error) <= 2 * np.asarray(found.stderr)).mean() <= 0.99
    # the error bar is the spread over the seeds, neither half of it nor twice
    bar = np.sqrt((np.asarray(found.stderr) ** 2).mean(0))
    np.testing.assert_allclose(bar, np.sqrt((error**2).mean(0)), rtol=0.25)


def product(a, v):
    return a @ (a.T @ v) + v


CALLS = {
    "trace": lambda A: linalg.trace(A, key=KEY, probes=2),
    "hutch_pp": lambda A: linalg.hutch_pp(A, key=KEY, probes=2),
    "xtrace": lambda A: linalg.xtrace(A, key=KEY, probes=2),
    "diagonal": lambda A: linalg.diagonal(A, key=KEY, probes=2),
    "frobenius": lambda A: linalg.frobenius(A, key=KEY, probes=2),
    "logdet": lambda A: linalg.logdet(A, key=KEY, probes=2),
    "cond": lambda A: linalg.cond(A, key=KEY),
}


@pytest.mark.parametrize("name", CALLS)
def test_mapped_over_parameters_it_is_the_loop_and_jit_is_eager(name):
    stack = jnp.asarray(cases.normal(0, 3, 5, 5), jnp.float32)

    def call(a):
        return CALLS[name](linalg.operator(Partial(product, a), jnp.zeros(5), psd=True))

    mapped = jax.jit(jax.vmap(call))(stack)
    for i, a in enumerate(stack):
        alone = call(a)
        np.testing.assert_allclose(mapped.value[i], alone.value, rtol=1e-4, atol=1e-5)
        evidence = "converged" if name == "cond" else "stderr"
        got, expected = (getattr(x, evidence) for x in (mapped, alone))
        np.testing.assert_allclose(got[i], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CALLS)
def test_new_parameters_of_the_same_shapes_do_not_retrace(name):
    traces = 0

    def counted(a, v):
        nonlocal traces
        traces += 1
        return product(a, v)

    found = []
    for a in jnp.asarray(cases.normal(0, 2, 5, 5), jnp.float32):
        A = linalg.operator(Partial(counted, a), jnp.zeros(5), psd=True)
        before = traces
        CALLS[name](A)
        found.append(traces - before)
    assert found[0] > 0
    assert found[1] == 0
