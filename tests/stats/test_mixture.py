"""Mixtures against scikit-learn from the same start; what EM promises; its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.mixture
from jax.test_util import check_grads
from jax.tree_util import Partial

import cases
from funcdl.stats import gaussian, mixture
from funcdl.stats.gaussian import Gaussian
from funcdl.stats.mixture import Mixture

SHAPES = {
    "full": mixture.full,
    "diag": mixture.diagonal,
    "tied": mixture.tied,
    "spherical": mixture.spherical,
}
X = np.concatenate([cases.normal(i, 40, 3) @ cases.normal(9 - i, 3, 3) + i for i in range(3)])
APART = np.concatenate([cases.normal(i, 12, 2) @ cases.normal(9 - i, 2, 2) + 9 * i for i in (0, 1)])
NEAR = APART - 6.5 * (APART.sum(axis=1, keepdims=True) > 9)  # they overlap: steps of EM are many
APART_START = Mixture(
    np.zeros(2), Gaussian(np.asarray([[0.0, 0.0], [9.0, 9.0]]), np.stack([np.eye(2)] * 2))
)
each_shape = pytest.mark.parametrize("name", SHAPES)


def begin(x, name, c=3, ridge=1e-6):
    return mixture.start(jax.random.key(0), x, c, covariance=SHAPES[name], ridge=ridge)


def theirs(params, name, **options):
    """scikit-learn's, at the same start."""
    precisions = np.linalg.inv(params.components.covariance)
    precisions = {
        "full": precisions,
        "diag": np.stack([np.diag(p) for p in precisions]),
        "tied": precisions[0],
        "spherical": precisions[:, 0, 0],
    }[name]
    return sklearn.mixture.GaussianMixture(
        len(params.log_weights),
        covariance_type=name,
        weights_init=np.exp(params.log_weights),
        means_init=np.asarray(params.components.mean),
        precisions_init=precisions,
        **options,
    )


@each_shape
@pytest.mark.usefixtures("x64")
def test_from_the_same_start_em_is_scikit_learns(name):
    x = jnp.asarray(X)
    params = begin(x, name)
    other = theirs(params, name, tol=1e-10, max_iter=2000).fit(X)
    ours = mixture.em(params, x, covariance=SHAPES[name], tol=1e-10, max_steps=2000)
    assert ours.converged
    np.testing.assert_allclose(ours.log_likelihood, other.score(X), rtol=1e-6)
    np.testing.assert_allclose(ours.params.components.mean, other.means_, atol=1e-3)
    np.testing.assert_allclose(ours.counts / len(X), other.weights_, atol=1e-4)
    few = mixture.em(params, x, covariance=SHAPES[name], tol=0.0, max_steps=1)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        other = theirs(params, name, tol=0, max_iter=1).fit(X)
    np.testing.assert_allclose(few.log_likelihood, other.score(X), rtol=1e-12)


@each_shape
@pytest.mark.usefixtures("x64")
def test_without_a_ridge_the_likelihood_never_falls(name):
    x = jnp.asarray(X)
    run = jax.jit(
        lambda start, n, ridge: (
            mixture.em(
                start, x, covariance=SHAPES[name], ridge=ridge, tol=0.0, max_steps=n
            ).log_likelihood
        )
    )
    for ridge in (0.0, 1e-6):  # a ridge moves the fixed point beside the maximum, by its own size
        curve = [run(begin(x, name), n, ridge) for n in (0, 1, 2, 3, 5, 8, 13, 30)]
        assert (np.diff(curve) >= -1e-14 * np.abs(curve[0]) - ridge).all()
        assert curve[-1] > curve[0]


@pytest.mark.usefixtures("x64")
def test_densities_of_one_point_are_the_sum_over_components():
    params = begin(jnp.asarray(X), "full")
    log_weights, components = params
    x = jnp.asarray(X[7])
    joint = [jnp.exp(w) * gaussian.pdf(Gaussian(*c), x) for w, *c in zip(log_weights, *components)]
    np.testing.assert_allclose(mixture.pdf(params, x), sum(joint))
    np.testing.assert_allclose(mixture.responsibilities(params, x), jnp.stack(joint) / sum(joint))
    density = Partial(mixture.log_prob, params._replace(log_weights=log_weights + 3.0))
    each = jax.jit(jax.vmap(density))(jnp.asarray(X))
    measured = mixture.em(params, jnp.asarray(X), max_steps=0).log_likelihood
    np.testing.assert_allclose(each.mean(), measured)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_densities_are_differentiable_twice_and_a_weight_of_zero_spoils_nothing():
    params = begin(jnp.asarray(X), "full")
    check_grads(jax.jit(mixture.log_prob), (params, jnp.asarray(X[7])), 2)
    none = params._replace(log_weights=jnp.asarray([0.0, -jnp.inf, 0.0]))
    slope = jax.grad(mixture.log_prob)(none, jnp.asarray(X[7]))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope.components))


def test_draws_have_the_mean_of_the_mixture():
    params = Mixture(
        jnp.log(jnp.asarray([0.25, 0.75])),
        Gaussian(jnp.asarray([[0.0], [4.0]]), jnp.asarray([[[1.0]], [[0.25]]])),
    )
    draws = jax.vmap(mixture.sample, (0, None))(jax.random.split(jax.random.key(0), 5000), params)
    np.testing.assert_allclose(draws.mean(), 3, atol=0.15)
    np.testing.assert_allclose(draws.var(), 3 + 0.25 + 3 / 16, atol=0.3)


def test_a_float32_fit_far_from_zero_is_the_fit_at_zero():
    x = jnp.asarray(APART, jnp.float32)
    near, far = (mixture.fit(jax.random.key(0), x + s, 2) for s in (0.0, 1e3))
    np.testing.assert_allclose(far.log_likelihood, near.log_likelihood, atol=1e-3)


def test_empty_and_degenerate_components_are_finite_and_reported():
    x = jnp.asarray(np.repeat(APART[:3], 8, axis=0), jnp.float32)  # three points, many times
    found = mixture.fit(jax.random.key(0), x, 4)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert found.degenerate.all()
    assert (found.counts < 1e-3).sum() == 1
    healthy = mixture.fit(jax.random.key(0), jnp.asarray(APART, jnp.float32), 2)
    assert not healthy.degenerate.any()


def test_without_a_ridge_what_is_not_definite_is_nan_and_not_converged():
    x = jnp.asarray(np.repeat(APART[:2], 12, axis=0), jnp.float32)
    found = mixture.fit(jax.random.key(0), x, 2, ridge=0.0)
    assert not found.converged
    assert found.degenerate.all()


def test_restarts_are_a_map_and_the_best_is_the_best():
    x = jnp.asarray(X, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    fits = jax.jit(jax.vmap(lambda key: mixture.fit(key, x, 3)))(keys)
    best = mixture.best(fits)
    assert best.log_likelihood == fits.log_likelihood.max()
    alone = mixture.fit(keys[fits.log_likelihood.argmax()], x, 3)
    np.testing.assert_allclose(best.log_likelihood, alone.log_likelihood, rtol=1e-5)
    spoilt = fits._replace(log_likelihood=fits.log_likelihood.at[0].set(jnp.nan))
    assert jnp.isfinite(mixture.best(spoilt).log_likelihood)


@pytest.mark.usefixtures("x64")
class TestDerivative:
    """Through the fixed point: theta = T(theta, x)."""

    ZERO, STEPS = np.zeros(2), 1e-4 * np.eye(2)

    @staticmethod
    def fitted(s, polish=0):
        """Fit on a surface of data and ridges."""
        begin, x, v, w = jax.tree.map(
            jnp.asarray, (APART_START, NEAR, cases.normal(1, 24, 2), cases.normal(2, 24, 2))
        )
        data, ridge = x + s[0] * v + s[1] * w, 0.1 + s[0]
        params = mixture.em(begin, data, ridge=ridge, tol=1e-15, max_steps=5000).params
        step = lambda _, params: mixture.em_step(params, data, ridge=ridge)
        params = jax.lax.fori_loop(0, polish, step, params) if polish else params
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])

    def test_derivatives_are_those_of_finite_differences(self):
        f, forward = jax.jit(lambda s: self.fitted(s, 1000)), jax.jit(jax.jacfwd(self.fitted))
        differences = [(f(s) - f(-s)) / 2e-4 for s in self.STEPS]
        np.testing.assert_allclose(forward(self.ZERO).T, differences, rtol=1e-5, atol=1e-5)
        backward = jax.jit(jax.jacrev(self.fitted))(self.ZERO)
        np.testing.assert_allclose(backward.T, differences, rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_so_are_second_derivatives(self):
        forward = jax.jit(jax.jacfwd(self.fitted))
        differences = [(forward(s) - forward(-s)) / 2e-4 for s in self.STEPS]
        differences = np.moveaxis(differences, 0, 2)
        for twice in (jax.jacfwd(jax.jacrev(self.fitted)), jax.jacrev(jax.jacfwd(self.fitted))):
            found = jax.jit(twice)(self.ZERO)
            np.testing.assert_allclose(found, differences, rtol=1e-3, atol=1e-3)

    def test_it_is_refused_where_em_did_not_converge_or_components_are_the_same(self):
        x = jnp.asarray(APART)

        @jax.jit
        def slope(begin, max_steps):
            run = lambda x: mixture.em(begin, x, tol=1e-14, max_steps=max_steps).params
            return jax.jvp(run, (x,), (x,))[1]

        apart = jax.tree.map(jnp.asarray, APART_START)
        same = jax.tree.map(lambda leaf: leaf[jnp.asarray([0, 0])], apart)
        sound, early, doubled = (slope(*a) for a in ((apart, 1000), (apart, 1), (same, 1000)))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(sound))
        assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves((early, doubled)))


def test_other_data_do_not_compile_again():
    from funcdl.stats._fitting import em_iteration

    traces = em_iteration.iterate._cache_size()
    for scale in (1.0, 2.0):
        x = scale * jnp.asarray(APART[:23], jnp.float32)
        mixture.fit(jax.random.key(0), x, 2, ridge=scale * 1e-3, tol=scale * 1e-3)
    assert em_iteration.iterate._cache_size() == traces + 1


@pytest.mark.parametrize("d", [2, 3, 5])
def test_a_component_in_a_subspace_is_degenerate(d):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        flat = rng.normal(size=(60, d - 1)) @ rng.normal(size=(d - 1, d))
        full = rng.normal(size=(60, d)) + 30
        x = jnp.asarray(np.concatenate([flat, full]), jnp.float32)
        found = mixture.fit(jax.random.key(seed), x, 2)
        order = np.argsort(found.params.components.mean[:, 0])
        np.testing.assert_array_equal(np.asarray(found.degenerate)[order], [True, False])
