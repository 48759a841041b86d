"""Multiplying a matrix by a number scales what is computed from it, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import linalg

rng = np.random.default_rng(0)
TALL = np.linalg.qr(rng.normal(size=(8, 3)))[0] @ np.diag([3.0, 1.2, 0.4]) @ rng.normal(size=(3, 3))
SYMMETRIC = TALL.T @ TALL + np.diag([0.1, 0.5, 0.9])
B = rng.normal(size=8)
KEY = jax.random.key(0)


def b(a):
    """The right side in the dtype of a."""
    return jnp.asarray(B, a.dtype)


# name: (f(a, c), matrix, degree): f(c a, c) = c^degree f(a, 1)
FUNCTIONS = {
    "spectral_norm": (lambda a, c: linalg.spectral_norm(a), TALL, 1),
    "nuclear_norm": (lambda a, c: linalg.nuclear_norm(a), TALL, 1),
    "schatten_norm": (lambda a, c: linalg.schatten_norm(a, 3.0), TALL, 1),
    "schatten_norm inf": (lambda a, c: linalg.schatten_norm(a, jnp.inf), TALL, 1),
    "frobenius_norm": (lambda a, c: linalg.frobenius_norm(a), TALL, 1),
    "one_norm": (lambda a, c: linalg.one_norm(a), TALL, 1),
    "inf_norm": (lambda a, c: linalg.inf_norm(a), TALL, 1),
    "norm 2": (lambda a, c: linalg.norm(a.ravel(), 2), TALL, 1),
    "norm 3.5": (lambda a, c: linalg.norm(a.ravel(), 3.5), TALL, 1),
    "norm inf": (lambda a, c: linalg.norm(a.ravel(), jnp.inf), TALL, 1),
    "svd": (lambda a, c: linalg.svd(a).s, TALL, 1),
    "vectors of svd": (lambda a, c: linalg.svd(a).v ** 2, TALL, 0),
    "gap of svd": (lambda a, c: linalg.svd(a).gap, TALL, 0),
    "randomized_svd": (lambda a, c: linalg.randomized_svd(KEY, a, 2).s, TALL, 1),
    "low_rank_approximation": (lambda a, c: linalg.low_rank_approximation(a, 2), TALL, 1),
    "projector": (lambda a, c: linalg.projector(a, 2), TALL, 0),
    "singular_subspace": (lambda a, c: jnp.square(linalg.singular_subspace(a, 1).v), TALL, 0),
    "polar": (lambda a, c: jax.tree.leaves(linalg.polar(a))[0], TALL, 0),
    "pinv": (lambda a, c: linalg.pinv(a), TALL, -1),
    "cond": (lambda a, c: linalg.cond(a), TALL, 0),
    "rank": (lambda a, c: 1.0 * linalg.rank(a), TALL, 0),
    "orth": (lambda a, c: linalg.orth(a).basis ** 2, TALL, 0),
    "det": (lambda a, c: linalg.det(a), SYMMETRIC, 3),
    "least_squares": (lambda a, c: linalg.least_squares(a, b(a)).x, TALL, -1),
    "residual": (lambda a, c: linalg.least_squares(a, c * b(a)).residual, TALL, 1),
    "ridge": (lambda a, c: linalg.ridge(a, b(a), 0.1 * c * c), TALL, -1),
    "lasso": (lambda a, c: linalg.lasso(a, b(a), 0.1 * c).x, TALL, -1),
    "lasso of b": (lambda a, c: linalg.lasso(a, c * b(a), 0.1 * c * c).x, TALL, 0),
    "eigh": (lambda a, c: linalg.eigh(a).values, SYMMETRIC, 1),
    "vectors of eigh": (lambda a, c: linalg.eigh(a).vectors ** 2, SYMMETRIC, 0),
    "eigenspace": (lambda a, c: linalg.eigenspace(a, 1).v ** 2, SYMMETRIC, 0),
    "sqrtm": (lambda a, c: linalg.sqrtm(a), SYMMETRIC, 0.5),
    "matrix_function": (lambda a, c: linalg.matrix_function(jnp.sqrt, a), SYMMETRIC, 0.5),
    "spectral_sum": (lambda a, c: linalg.spectral_sum(jnp.abs, a), SYMMETRIC, 1),
    "pca variance": (lambda a, c: linalg.pca(a, 2).variance, TALL, 2),
    "pca ratio": (lambda a, c: linalg.pca(a, 2).ratio, TALL, 0),
    "pca components": (lambda a, c: linalg.pca(a, 2).components ** 2, TALL, 0),
    "pca_randomized": (lambda a, c: linalg.pca_randomized(KEY, a, 2).variance, TALL, 2),
}
# powers of ten that the dtype holds, with room for the cubes of 8 numbers
WITHOUT_GRADIENT = ("rank", "gap of svd", "randomized_svd", "pca_randomized")
LARGEST = {jnp.float32: 34, jnp.float64: 290}


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_scale(name, dtype):
    f, matrix, degree = FUNCTIONS[name]
    # the value, its gradient and c^2 of an argument have to be representable
    reach = max(1, abs(degree), abs(degree - 1), 2 * name.startswith(("ridge", "lasso")))
    exponents = [int(k * LARGEST[dtype] / reach) for k in (-1, -0.5, 0.5, 1)]
    with jax.enable_x64(dtype == jnp.float64):
        a = jnp.asarray(matrix, dtype)

        def both(c):
            weights = jnp.cos(1.0 + jnp.arange(jnp.size(f(a, c))))
            total = lambda x: weights @ jnp.ravel(f(x, c)).astype(dtype)
            slope = jnp.zeros(()) if name in WITHOUT_GRADIENT else jax.grad(total)(c * a)
            return f(c * a, c), slope

        both = jax.jit(both)
        value, slope = both(jnp.ones((), dtype))
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()
        for k in exponents:
            c = 10.0**k
            found, grown = both(jnp.asarray(c, dtype))
            tolerance = {"rtol": 2e-4, "atol": 2e-4 * np.abs(value).max()}
            np.testing.assert_allclose(np.float64(found) / c**degree, value, **tolerance)
            tolerance = {"rtol": 2e-3, "atol": 2e-3 * np.abs(slope).max()}
            np.testing.assert_allclose(np.float64(grown) / c ** (degree - 1), slope, **tolerance)
