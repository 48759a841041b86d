"""Student's t against scipy, mpmath's limit and its own equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import cases
from funcdl.stats import gaussian, student_t
from funcdl.stats.gaussian import Gaussian
from funcdl.stats.student_t import StudentT

MEAN, SCALE = np.asarray([1.0, -1.0]), np.asarray([[2.0, 0.5], [0.5, 1.0]])
DRAWS = scipy.stats.multivariate_t(MEAN, SCALE, 4, seed=1).rvs(150)


def build(dof, dtype):
    return cases.cast(StudentT(MEAN, SCALE, np.asarray(dof)), dtype)


log_prob = jax.jit(student_t.log_prob)


@pytest.mark.parametrize("dof", [0.3, 1.0, 4.5, 39.0, 41.0, 300.0])
def test_the_density_is_that_of_scipy_far_out_in_float32_too(dof):
    for distance in (0.0, 1.0, 1e4):
        x = MEAN + distance
        exact = scipy.stats.multivariate_t(MEAN, SCALE, dof).logpdf(x)
        got = log_prob(build(dof, jnp.float32), jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(got, exact, rtol=2e-6)
        with jax.enable_x64(True):
            got = log_prob(build(dof, jnp.float64), jnp.asarray(x))
            np.testing.assert_allclose(got, exact, rtol=1e-12)


@pytest.mark.parametrize("dof", [1e6, 1e12])
def test_with_many_degrees_of_freedom_it_is_a_gaussian_in_float32_too(dof):
    x = jnp.asarray([2.0, 0.5])
    params = build(dof, jnp.float32)
    exact = gaussian.log_prob(Gaussian(params.mean, params.scale), x)
    np.testing.assert_allclose(log_prob(params, x), exact, rtol=1e-5)


@pytest.mark.parametrize("dof", [0.5, 1.0, 3.0, 30.0])
@pytest.mark.usefixtures("x64")
def test_the_distribution_function_is_that_of_scipy_in_both_tails(dof):
    params = StudentT(jnp.asarray([1.0]), jnp.asarray([[4.0]]), jnp.asarray(dof))
    x = np.asarray([-1e4, -20.0, 0.9, 1.0, 1.1, 7.0, 300.0])
    got = jax.jit(jax.vmap(student_t.cdf, (None, 0)))(params, jnp.asarray(x)[:, None])
    np.testing.assert_allclose(got, scipy.stats.t(dof, 1, 2).cdf(x), rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_densities_are_differentiable_twice_in_both_modes():
    def f(mean, root, dofs, x):
        scale = root @ root.T + jnp.eye(2)
        return jax.vmap(lambda dof: student_t.log_prob(StudentT(mean, scale, dof), x))(dofs)

    inputs = cases.normal(0, 2), cases.normal(1, 2, 2), np.asarray([2.5, 60.0]), cases.normal(2, 2)
    cases.check_second(f, inputs)


@pytest.mark.usefixtures("x64")
def test_the_slope_of_the_distribution_function_is_the_density_at_the_center_too():
    params = StudentT(jnp.zeros(1), jnp.eye(1), jnp.asarray(3.0))
    x = jnp.asarray([[0.0], [2.0], [-1e3]])

    def along(f):
        return jax.jit(jax.vmap(jax.grad(lambda x: f(params, x)), 0))(x)

    density = jax.vmap(student_t.pdf, (None, 0))(params, x)
    np.testing.assert_allclose(along(student_t.cdf)[:, 0], density, rtol=1e-12)
    bend = jax.jit(jax.vmap(jax.hessian(lambda x: student_t.cdf(params, x))))(x)
    np.testing.assert_allclose(bend[:, 0], along(student_t.pdf), rtol=1e-12)
    assert jnp.isnan(jax.jit(jax.grad(student_t.cdf))(params, jnp.ones(1)).dof)


def test_draws_follow_the_distribution():
    draw = jax.jit(jax.vmap(student_t.sample, (0, None)))
    keys = jax.random.split(jax.random.key(0), 4000)
    params = StudentT(jnp.zeros(1), 4 * jnp.eye(1), jnp.asarray(3.0))
    draws = np.asarray(draw(keys, params))[:, 0]
    assert scipy.stats.kstest(draws, scipy.stats.t(3, 0, 2).cdf).pvalue > 1e-3
    assert not jnp.isnan(draw(keys, params._replace(dof=jnp.asarray(0.05)))).any()


@pytest.mark.usefixtures("x64")
def test_the_fit_maximises_the_likelihood_and_says_that_it_converged():
    x = jnp.asarray(DRAWS)
    found = student_t.fit(x, tol=1e-13)
    assert found.converged
    slope = jax.jit(jax.grad(lambda p: jax.vmap(student_t.log_prob, (None, 0))(p, x).mean()))
    for leaf in jax.tree.leaves(slope(found.params)):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)
    every = jax.vmap(student_t.log_prob, (None, 0))(found.params, x)
    np.testing.assert_allclose(found.log_likelihood, every.mean(), rtol=1e-12)
    early = student_t.fit(x, max_steps=1)
    assert not early.converged
    assert early.steps == 1


@pytest.mark.usefixtures("x64")
def test_one_wild_row_moves_the_mean_hardly_and_gaussian_rows_have_many_degrees_of_freedom():
    x = np.concatenate([DRAWS, [[1e6, -1e6]]])
    moved = (
        student_t.fit(jnp.asarray(x)).params.mean - student_t.fit(jnp.asarray(DRAWS)).params.mean
    )
    assert (jnp.abs(moved) < 0.05).all()
    quantiles = scipy.stats.norm.ppf((np.arange(150) + 0.5) / 150)
    assert student_t.fit(jnp.asarray(quantiles)[:, None]).params.dof > 100


@pytest.mark.usefixtures("x64")
def test_the_fit_is_differentiable_in_the_data_where_it_converged():
    x, v = jnp.asarray(DRAWS), jnp.asarray(cases.normal(3, *DRAWS.shape))

    @jax.jit
    def tangent(x, v, max_steps):
        f = lambda x: student_t.fit(x, tol=1e-13, max_steps=max_steps).params
        return jax.jvp(f, (x,), (v,))

    (ahead, _), (back, _) = tangent(x + 1e-3 * v, v, 1000), tangent(x - 1e-3 * v, v, 1000)
    for a, b, t in zip(ahead, back, tangent(x, v, 1000)[1]):
        np.testing.assert_allclose(t, (a - b) / 2e-3, rtol=1e-3, atol=1e-4)
    for leaf in tangent(x, v, 1)[1]:
        assert jnp.isnan(leaf).all()


@pytest.mark.parametrize("dof", [5.0, 150.0, 250.0, 1e4, 1e7, 1e12])
def test_the_cdf_in_float32_for_all_degrees_of_freedom(dof):
    t = np.array([-6, -3, -1, -0.1, 0, 0.2, 2, 5], "float32")
    params = student_t.StudentT(jnp.zeros(1), jnp.eye(1), jnp.float32(dof))
    found = jax.jit(jax.vmap(lambda t: student_t.cdf(params, t[None])))(t)
    np.testing.assert_allclose(found, scipy.stats.t.cdf(t.astype(float), dof), rtol=3e-5)
