"""Principal components against scikit-learn, and their invariants under derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

import cases
from funcdl import data, linalg

TALL = cases.normal(0, 30, 6) @ np.diag([3, 2, 1.5, 1, 0.5, 0.2]) + 5
X = {"tall": TALL, "wide": TALL.T @ cases.normal(1, 30, 20), "square": TALL[:6]}


@pytest.mark.parametrize("name", X)
@pytest.mark.usefixtures("x64")
def test_components_are_those_of_scikit_learn(name):
    x = X[name]
    ours, peer = jax.jit(lambda x: linalg.pca(x, 3))(jnp.asarray(x)), PCA(3).fit(x)
    np.testing.assert_allclose(ours.mean, peer.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.variance, peer.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(ours.ratio, peer.explained_variance_ratio_, rtol=1e-10)
    p, q = ours.components, peer.components_
    np.testing.assert_allclose(p.T @ p, q.T @ q, atol=1e-10)
    np.testing.assert_allclose(p @ p.T, np.eye(3), atol=1e-12)
    signs = np.sign((p * q).sum(axis=1))
    np.testing.assert_allclose(
        np.asarray(ours.transform(jnp.asarray(x))) * signs, peer.transform(x), atol=1e-9
    )


def test_digits_in_float32_agree_with_float64():
    x = np.asarray(data.digits()[0][0]).reshape(-1, 64)
    ours = linalg.pca(jnp.asarray(x, jnp.float32), 20)
    peer = PCA(20).fit(x.astype(float))
    np.testing.assert_allclose(ours.variance, peer.explained_variance_, rtol=1e-5)
    p, q = np.asarray(ours.components), peer.components_
    np.testing.assert_allclose(p.T @ p, q.T @ q, atol=1e-4)


def test_a_large_mean_does_not_cancel():
    x = jnp.asarray(TALL + 1000, jnp.float32)
    true = PCA(3).fit(np.asarray(x, float)).explained_variance_
    np.testing.assert_allclose(linalg.pca(x, 3).variance, true, rtol=1e-4)


def test_the_way_there_and_back_is_the_projection():
    found = linalg.pca(jnp.asarray(TALL, jnp.float32), 6)
    x = jnp.asarray(TALL, jnp.float32)
    np.testing.assert_allclose(found.inverse_transform(found.transform(x)), x, atol=1e-4)
    np.testing.assert_allclose(found.inverse_transform(found.transform(x[0])), x[0], atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_random_projections_find_the_same(key):
    x = cases.normal(2, 300, 50) @ np.diag(0.9 ** np.arange(50))
    ours = jax.jit(lambda key, x: linalg.pca_randomized(key, x, 5))(key, jnp.asarray(x))
    peer = PCA(5, svd_solver="full").fit(x)
    np.testing.assert_allclose(ours.variance, peer.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(ours.ratio, peer.explained_variance_ratio_, rtol=1e-4)


@pytest.mark.parametrize("name", ["tall", "wide"])
@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_differences(name):
    x = jnp.asarray(X[name][:, :6] if name == "tall" else X[name][:4, :6])

    def f(x):
        found = linalg.pca(x, 2)
        return found.variance, found.components.T @ found.components, jnp.abs(found.components)

    cases.check_second(f, (x,))


@pytest.mark.usefixtures("x64")
def test_the_subspace_has_a_second_derivative_where_its_variances_are_tied():
    q = np.linalg.qr(cases.normal(3, 4, 4))[0]
    base = np.concatenate([np.diag([2.0, 2.0, 1.0, 1.0]), -np.diag([2.0, 2.0, 1.0, 1.0])]) @ q
    e, w = jnp.asarray(cases.normal(4, 8, 4)), jnp.asarray(cases.normal(5, 4, 4))

    def along(t):
        c = linalg.pca(base + t * e, 2).components
        return jnp.sum(w * (c.T @ c))

    def plain(t):
        x = base + t * e
        x = np.asarray(x) - np.asarray(x).mean(axis=0)
        v = np.linalg.eigh(x.T @ x)[1][:, 2:]
        return np.sum(w * (v @ v.T))

    h = 1e-3
    true = (
        (-plain(2 * h) + 16 * plain(h) - 30 * plain(0) + 16 * plain(-h) - plain(-2 * h)) / 12 / h**2
    )
    np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(along)))(0.0), true, rtol=1e-5)
