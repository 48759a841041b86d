"""Multiplying an operator by a number scales its estimates, their errors and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import operators

N = 12
MATRIX = cases.symmetric(np.linspace(1.0, 5.0, N) ** 2)
KEY = jax.random.key(0)
DTYPES = [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]
POWERS = {jnp.float32: (-30, -15, 15, 30), jnp.float64: (-280, -140, 140, 280)}


def mean(f, degree=1):
    """The estimate of the mean of f over the spectrum, in units of c."""

    def estimate(A, c):
        density = operators.spectral_density(A, key=KEY, probes=4, steps=6)
        return operators.spectral_mean(density, lambda x: f(x / c) * c**degree)

    return estimate


def smoothed(A, c):
    density = operators.spectral_density(A, key=KEY, probes=4, steps=6)
    grid = c * jnp.linspace(1, 25, 5)
    found = operators.smoothed_density(density, grid.astype(c.dtype), c * jnp.asarray(2, c.dtype))
    return found._replace(value=found.value * c, stderr=found.stderr * c)


def logdet(A, c):
    found = operators.logdet(A, key=KEY, probes=4, steps=10)
    return found._replace(value=found.value - N * jnp.log(c))


# name: (estimate(A, c), degree in c)
ESTIMATES = {
    "trace": (lambda A, c: operators.trace(A, key=KEY, probes=4), 1),
    "diagonal": (lambda A, c: operators.diagonal(A, key=KEY, probes=4), 1),
    "frobenius": (lambda A, c: operators.frobenius(A, key=KEY, probes=4), 1),
    "hutch_pp": (lambda A, c: operators.hutch_pp(A, key=KEY, probes=6), 1),
    "xtrace": (lambda A, c: operators.xtrace(A, key=KEY, probes=6), 1),
    "spectral_mean": (mean(lambda x: x), 1),
    "spectral_mean of exp": (mean(lambda x: jnp.exp(-x), 0), 0),
    "smoothed_density": (smoothed, 0),
    "logdet": (logdet, 0),
    "logdet, damped": (
        lambda A, c: operators.logdet(A, key=KEY, probes=4, steps=10, damping=c)._replace(
            stderr=jnp.zeros((), c.dtype)
        ),
        None,
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_scale(name, dtype):
    estimate, degree = ESTIMATES[name]
    with jax.enable_x64(dtype == jnp.float64):
        a = jnp.asarray(MATRIX, dtype)

        def all_of(c):
            def found(a):
                A = operators.from_function(lambda v: c * (a @ v), a[0], symmetric=True, psd=True)
                return estimate(A, c)

            value, stderr, _ = found(a)
            scale = c ** (degree or 0)
            shift = N * jnp.log(c) if degree is None else 0
            slope = jax.grad(lambda a: found(a).value.sum())(a)
            return (value - shift) / scale, stderr / scale, slope / scale

        all_of = jax.jit(all_of)
        right = all_of(jnp.ones((), dtype))
        for k in POWERS[dtype]:
            found = all_of(jnp.asarray(10.0**k, dtype))
            for ours, x in zip(found, right):
                np.testing.assert_allclose(ours, x, rtol=1e-3, atol=1e-3 * np.abs(x).max())
