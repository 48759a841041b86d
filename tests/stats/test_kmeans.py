"""k-means against scikit-learn from the same start, and at its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.cluster

import cases
from funcdl import data, stats
from funcdl.stats import _kmeans
from funcdl.stats._fitting import lloyd_iteration

DIGITS = data.digits().train[0].reshape(-1, 64)
START = (DIGITS[:10] + cases.normal(0, 10, 64) / 100).astype(np.float32)  # rows alone make ties
BLOBS = np.concatenate([cases.normal(i, 30, 2) / 5 + [4 * i, (-1) ** i] for i in range(3)])


def same_start(x, centers, tol):
    theirs = sklearn.cluster.KMeans(len(centers), init=centers, n_init=1, tol=tol).fit(x)
    return theirs, stats.lloyd(jnp.asarray(x), jnp.asarray(centers), tol=tol)


@pytest.mark.parametrize("tol", [0.0, 1e-4, 1e-2])
def test_from_the_same_start_it_is_scikit_learns(tol):
    theirs, ours = same_start(DIGITS, START, tol)
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-5)
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_, atol=1e-5)
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    assert ours.steps == theirs.n_iter_
    assert ours.converged
    assert not ours.empty.any()


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, centers = jnp.asarray(DIGITS), jnp.asarray(START)
    whole = _kmeans._kmeans.__wrapped__(x, centers, 1e-4, 300)
    monkeypatch.setattr(lloyd_iteration, "_BLOCK", 300 * 64)
    parts = _kmeans._kmeans.__wrapped__(x, centers, 1e-4, 300)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(parts.inertia, whole.inertia, rtol=1e-6)


def test_a_step_never_raises_the_inertia():
    x, centers = jnp.asarray(DIGITS), jnp.asarray(START)
    curve = [stats.lloyd(x, centers, tol=0.0, max_steps=n).inertia for n in range(12)]
    assert (np.diff(curve) <= 1e-6 * curve[0]).all()


def test_an_offset_costs_float32_no_cluster():
    x = (BLOBS + 1e4).astype(np.float32)
    found = stats.kmeans(jax.random.key(0), jnp.asarray(x), 3)
    exact = sum(part.var(axis=0).sum() * 30 for part in x.astype(float).reshape(3, 30, 2))
    np.testing.assert_allclose(found.inertia, exact, rtol=1e-3)


def test_seeds_are_rows_far_apart_and_restarts_are_a_map():
    x = jnp.asarray(BLOBS, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    seeds = jax.vmap(stats.kmeans_plus_plus, (0, None, None))(keys, x, 3)
    assert (jnp.abs(seeds[:, :, None] - x[None, None]).sum(-1).min(-1) < 1e-5).all()
    assert (jnp.sort(jnp.round(seeds[:, :, 0] / 4), axis=1) == jnp.arange(3)[None]).all()
    runs = jax.vmap(stats.kmeans, (0, None, None))(keys, x, 3)
    alone = stats.kmeans(keys[3], x, 3)
    np.testing.assert_allclose(runs.inertia[3], alone.inertia, rtol=1e-6)
    np.testing.assert_array_equal(runs.labels[3], alone.labels)


def test_seeds_are_as_good_as_scikit_learns():
    x = jnp.asarray(DIGITS)
    seeds = [stats.kmeans_plus_plus(key, x, 10) for key in jax.random.split(jax.random.key(0), 20)]
    theirs = [sklearn.cluster.kmeans_plusplus(DIGITS, 10, random_state=i)[0] for i in range(20)]

    def potential(centers):
        return np.square(DIGITS[:, None] - np.asarray(centers)[None]).sum(-1).min(1).sum()

    ours, theirs = ([potential(c) for c in group] for group in (seeds, theirs))
    assert np.mean(ours) < np.mean(theirs) + 3 * np.std(theirs) / 20**0.5


STARTS = {
    "one far away": [BLOBS[0], BLOBS[30], [1e3, 1e3]],
    "two far away": [BLOBS[0], [1e3, 1e3], [-1e3, 1e3]],
    "all at one row": [BLOBS[0]] * 3,
    "all far away": [[1e3, 1e3]] * 3,
}


@pytest.mark.parametrize("name", STARTS)
def test_an_empty_cluster_moves_to_rows_far_from_their_centers(name):
    x, start = (jnp.asarray(a, jnp.float32) for a in (BLOBS, STARTS[name]))
    found = stats.lloyd(x, start, tol=0.0)
    best = sum(np.var(part, axis=0).sum() * 30 for part in BLOBS.reshape(3, 30, 2))
    assert found.converged
    assert not found.empty.any()
    np.testing.assert_allclose(found.inertia, best, rtol=1e-4)
    curve = [stats.lloyd(x, start, tol=0.0, max_steps=n).inertia for n in range(6)]
    assert (np.diff(curve) <= 1e-5 * best).all()
    runs = jax.vmap(lambda s: stats.lloyd(x, s, tol=0.0))(jnp.stack([start, x[:3]]))
    np.testing.assert_array_equal(runs.labels[0], found.labels)
    slope = jax.jacrev(lambda x: stats.lloyd(x, start, tol=0.0).centers)(x)
    member = jax.nn.one_hot(found.labels, 3, axis=0)[:, None, :, None] / 30
    np.testing.assert_allclose(slope, member * jnp.eye(2)[None, :, None], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("values", [[1.0], [0.1, 0.7], [0.1, 0.7, 1.3, 1.3000002]])
def test_clusters_stay_empty_where_too_few_rows_differ(values, scale):
    x = scale * jnp.repeat(jnp.asarray(values, jnp.float32), 7)[:, None]
    found = stats.kmeans(jax.random.key(0), x, len(values) + 2)
    assert found.converged
    assert found.empty.sum() >= 2
    np.testing.assert_allclose(found.inertia / scale**2, 0, atol=1e-10)


def test_what_did_not_converge_says_so():
    found = stats.lloyd(jnp.asarray(DIGITS), jnp.asarray(START), max_steps=2)
    assert not found.converged
    assert found.steps == 2


@pytest.mark.usefixtures("x64")
def test_centers_and_inertia_are_differentiable_in_the_data():
    x, start = jnp.asarray(BLOBS), jnp.asarray(BLOBS[[0, 30, 60]])

    def f(x):
        found = stats.lloyd(x, start)
        return found.centers, found.inertia

    cases.check_second(f, (x,))
    slope = jax.jit(jax.jacrev(lambda x: f(x)[0]))(x)
    labels = stats.lloyd(x, start).labels
    expected = jax.nn.one_hot(labels, 3, axis=0)[:, None, :, None] * jnp.eye(2)[None, :, None] / 30
    np.testing.assert_allclose(slope, expected, atol=1e-14)


def test_other_data_do_not_compile_again():
    traces = _kmeans._kmeans._cache_size()
    for scale in (1.0, 2.0):
        stats.lloyd(scale * jnp.asarray(BLOBS[:31]), jnp.asarray(BLOBS[:2]), tol=scale * 1e-3)
    assert _kmeans._kmeans._cache_size() == traces + 1
