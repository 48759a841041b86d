"""A contraction, the map beside it, and every estimate of its log-determinant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import density

N = 12
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2, N, N))
X = RNG.normal(size=N)


def contraction(x, weights, lipschitz=0.7):
    """A map of Lipschitz constant 0.7."""
    a, b = (w / jnp.linalg.norm(w, 2) for w in weights)
    return lipschitz * jnp.sin(a @ jnp.tanh(b @ x))


def residual(x, weights):
    return x + contraction(x, weights)


def dense(f, x, *args):
    return jnp.linalg.slogdet(jax.jacfwd(f)(x, *args))[1]


def arguments():
    return jnp.asarray(X, jnp.result_type(float)), jnp.asarray(WEIGHTS, jnp.result_type(float))


ESTIMATES = {
    "lanczos": density.lanczos_log_det(residual),
    "power series": functools.partial(density.power_series_log_det(contraction), terms=40),
    "roulette": density.roulette_log_det(contraction),
}
