"""Derivatives of estimated log-determinants are right on average."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density
from residual import ESTIMATES, arguments, dense, residual


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["lanczos", "roulette", "power series"])
def test_derivatives_are_right_on_average(name):
    x, weights = arguments()
    keys = jax.random.split(jax.random.key(2), 30)

    @jax.jit
    def slopes(x, weights):
        value = lambda x, weights, key: ESTIMATES[name](x, weights, key=key).value
        each = jax.lax.map(lambda key: jax.grad(value, argnums=(0, 1))(x, weights, key), keys)
        return each, jax.grad(functools.partial(dense, residual), argnums=(0, 1))(x, weights)

    found, expected = slopes(x, weights)
    for a, b in zip(found, expected):
        mean, bar = a.mean(axis=0), a.std(axis=0) / len(keys) ** 0.5
        assert (((mean - b) / bar) ** 2).mean() < 2
        assert jnp.linalg.norm(mean - b) < 0.2 * jnp.linalg.norm(b)


@pytest.mark.usefixtures("x64")
def test_the_roulette_and_its_derivatives_are_right_where_the_tail_of_the_series_matters():
    """A single number: J = -a cos(x), all terms have one sign, and N alone is random."""
    log_det = density.roulette_log_det(lambda x, a: -a * jnp.sin(x))
    x, a = jnp.asarray([0.3]), jnp.asarray(0.6)
    estimate = lambda x, a: log_det(x, a, key=jax.random.key(3), probes=20000)
    value = lambda x, a: estimate(x, a).value
    true = lambda x, a: jnp.log1p(-a * jnp.cos(x)).sum()
    gradient = lambda f: jax.grad(f, argnums=(0, 1))
    hessian = lambda f: jax.jacfwd(gradient(f), argnums=(0, 1))
    both = lambda f: (gradient(f)(x, a), hessian(f)(x, a))
    found, (slopes, curves) = jax.jit(lambda: (estimate(x, a), both(value)))()
    true_slopes, true_curves = both(true)
    assert abs(found.value - true(x, a)) < 4 * found.stderr < 0.05
    for one, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(true_slopes)):
        np.testing.assert_allclose(one, other, rtol=0.03)
    for one, other in zip(jax.tree.leaves(curves), jax.tree.leaves(true_curves)):
        np.testing.assert_allclose(one, other, rtol=0.06)
