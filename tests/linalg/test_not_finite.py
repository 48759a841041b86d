"""What is computed from NaN or infinity is NaN, or refused: it never looks sound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import linalg

B = jnp.asarray([1.0, 2.0, 3.0])
FUNCTIONS = {
    "spectral_norm": linalg.spectral_norm,
    "schatten_norm 3": lambda a: linalg.schatten_norm(a, 3),
    "schatten_norm inf": lambda a: linalg.schatten_norm(a, jnp.inf),
    "nuclear_norm": linalg.nuclear_norm,
    "frobenius_norm": linalg.frobenius_norm,
    "one_norm": linalg.one_norm,
    "inf_norm": linalg.inf_norm,
    "cond": linalg.cond,
    "pinv": linalg.pinv,
    "svd": lambda a: linalg.svd(a).s,
    "vectors of svd": lambda a: linalg.svd(a).u,
    "eigh": lambda a: linalg.eigh(a).vectors,
    "eigenspace": lambda a: linalg.eigenspace(a, 2).v,
    "singular_subspace": lambda a: linalg.singular_subspace(a, 2).v,
    "polar": lambda a: jax.tree.leaves(linalg.polar(a))[0],
    "matrix_function": lambda a: linalg.matrix_function(jnp.tanh, a),
    "low_rank_approximation": lambda a: linalg.low_rank_approximation(a, 1),
    "least_squares": lambda a: linalg.least_squares(a, B).x,
    "ridge": lambda a: linalg.ridge(a, B, 0.1),
    "orth": lambda a: linalg.orth(a).basis,
    "pca": lambda a: linalg.pca(a, 2).variance,
}
PLACES = [(0, 1), (2, 2), (1, 0)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_marked(name, bad):
    f = jax.jit(FUNCTIONS[name])
    for place in PLACES:
        found = f(jnp.eye(3).at[place].set(bad))
        assert not jnp.isfinite(found).all()
        if name.endswith("norm") and np.isnan(bad):
            assert jnp.isnan(found)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_rank_is_minus_one_and_nothing_is_independent(bad):
    a = jnp.eye(3).at[0, 1].set(bad)
    assert jax.jit(linalg.rank)(a) == jax.jit(linalg.orth)(a).rank == -1
    assert not jax.jit(linalg.linearly_independent)(a)


@pytest.mark.parametrize(
    "spread", [[1, 1e-2, 1e-4], [1, 1e-3, 1e-5], [1, 0.5, 1e-4], [1, 1e-4, 2e-4]]
)
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_small_variances_are_right_in_float32(spread, scale):
    rng = np.random.default_rng(0)
    u, q = np.linalg.qr(rng.normal(size=(200, 3)))[0], np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x = np.float32((u - u.mean(axis=0)) * spread @ q.T * scale)
    exact = np.float64(x) - np.float64(x).mean(axis=0)
    _, s, vt = np.linalg.svd(exact)
    found = linalg.pca(jnp.asarray(x), 3)
    np.testing.assert_allclose(np.float64(found.variance), s**2 / 199, rtol=0.03)
    assert np.abs((np.asarray(found.components) * vt).sum(axis=1)).min() > 0.99


@pytest.mark.parametrize(
    "f", [lambda a, b: linalg.ridge(a, b, 0.0), lambda a, b: linalg.least_squares(a, b).x]
)
@pytest.mark.usefixtures("x64")
def test_mixed_dtypes_are_promoted_before_products(f):
    rng = np.random.default_rng(0)
    a, b = np.float32(rng.normal(size=(20, 4))), rng.normal(size=20)
    exact = np.linalg.lstsq(np.float64(a), b)[0]
    for first, second in ((a, b), (np.float64(a), b)):
        np.testing.assert_allclose(f(jnp.asarray(first), jnp.asarray(second)), exact, rtol=1e-12)
