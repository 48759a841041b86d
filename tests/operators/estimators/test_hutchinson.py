"""Trace, diagonal and Frobenius norm: exact cases, the probes themselves, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import cases
from funcdl import operators
from funcdl.operators import diagonal, frobenius, trace

KEY = jax.random.key(0)
VALUES = cases.SPECTRA["random"]
MATRIX = cases.symmetric(VALUES)
RECTANGLE = cases.normal(3, 5, 8)


def operator(a, **flags):
    return operators.from_dense(jnp.asarray(a, jnp.float32), **flags)


def signs(count, n, dtype=jnp.float32):
    """Draw the signs that the estimates draw for a matrix."""

    def draw(key):
        return jax.random.rademacher(jax.random.split(key, 1)[0], (n,), dtype)

    return np.asarray(jax.vmap(draw)(jax.random.split(KEY, count)), np.float64)


def test_the_trace_of_a_diagonal_matrix_is_exact():
    estimate = trace(operator(np.diag(VALUES)), key=KEY, probes=2)
    np.testing.assert_allclose(estimate.value, VALUES.sum(), rtol=1e-5)
    np.testing.assert_allclose(estimate.stderr, 0, atol=1e-5)
    assert estimate.matvecs == 2


@pytest.mark.parametrize("shape", [(30, 30)])
def test_the_trace_of_a_matrix_that_is_not_symmetric_is_estimated(shape):
    a = cases.normal(3, *shape)
    estimate = trace(operator(a), key=KEY, probes=500)
    assert abs(estimate.value - np.trace(a)) <= 4 * estimate.stderr


def test_error_bars_of_the_trace_cover_the_truth_as_often_as_they_say():
    probes, seeds = 16, 200
    A = operator(MATRIX, symmetric=True)
    estimates = jax.vmap(lambda key: trace(A, key=key, probes=probes))(jax.random.split(KEY, seeds))
    width = scipy.stats.t.ppf(0.975, probes - 1) * estimates.stderr
    covered = np.abs(estimates.value - VALUES.sum()) <= width
    assert 0.90 <= covered.mean() <= 0.99
    # the error bar is the spread over the seeds, neither half of it nor twice
    np.testing.assert_allclose(np.mean(estimates.stderr**2) ** 0.5, estimates.value.std(), rtol=0.2)


def test_the_gradient_of_a_trace_is_its_probes():
    a = jnp.asarray(MATRIX, jnp.float32)
    gradient = jax.jit(jax.grad(lambda a: trace(operators.from_dense(a), key=KEY, probes=2).value))(
        a
    )
    z = signs(2, 30)
    np.testing.assert_allclose(gradient, z.T @ z / 2, atol=1e-6)


def test_a_standard_error_of_zero_has_a_finite_derivative():
    def f(d):
        return trace(operators.from_dense(jnp.diag(d)), key=KEY, probes=2)

    tangent = jax.jvp(f, (jnp.ones(3),), (jnp.ones(3),))[1]
    assert (tangent.value, tangent.stderr) == (3.0, 0.0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_diagonal_is_the_mean_of_its_probes(symmetric):
    a = MATRIX if symmetric else cases.normal(4, 30, 30)
    estimate = diagonal(operator(a), key=KEY, probes=9)
    z = signs(9, 30)
    samples = z * (z @ a.T)
    np.testing.assert_allclose(estimate.value, samples.mean(0), atol=2e-5)
    np.testing.assert_allclose(estimate.stderr, samples.std(0, ddof=1) / 3, rtol=1e-4)
    assert estimate.matvecs == 9


def test_the_diagonal_of_a_diagonal_matrix_is_exact_and_its_derivative_finite():
    def f(d):
        return diagonal(operators.from_dense(jnp.diag(d)), key=KEY, probes=3)

    d = jnp.asarray(VALUES, jnp.float32)
    estimate, tangent = jax.jvp(f, (d,), (jnp.ones(30),))
    np.testing.assert_allclose(estimate.value, d, rtol=1e-6)
    assert (estimate.stderr == 0).all()
    np.testing.assert_allclose(tangent.value, 1, rtol=1e-6)
    assert (tangent.stderr == 0).all()


def test_the_diagonal_of_a_function_of_trees_is_a_tree():
    A, matrix = cases.symmetric_function(0)
    estimate = diagonal(A, key=KEY, probes=400)
    assert jax.tree.structure(estimate.value) == jax.tree.structure(A.shape_in)
    value, stderr = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in estimate[:2]
    )
    assert (np.abs(value - np.diag(matrix)) <= 4 * stderr + 1e-5).all()


@pytest.mark.parametrize("a", [MATRIX, RECTANGLE, RECTANGLE.T], ids=["square", "wide", "tall"])
def test_the_frobenius_norm_is_the_mean_square_of_its_probes(a):
    estimate = frobenius(operator(a), key=KEY, probes=9)
    squares = ((signs(9, a.shape[1]) @ a.T) ** 2).sum(1)
    value = squares.mean() ** 0.5
    np.testing.assert_allclose(estimate.value, value, rtol=1e-5)
    stderr = squares.std(ddof=1) / 3 / (2 * value)
    np.testing.assert_allclose(estimate.stderr, stderr, rtol=1e-4)
    sure = frobenius(operator(a), key=KEY, probes=400)
    assert abs(sure.value - np.linalg.norm(a)) <= 4 * sure.stderr


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25])
def test_the_frobenius_norm_of_any_scale_is_found_and_that_of_zero_has_gradient_zero(scale):
    a = jnp.asarray(scale * RECTANGLE, jnp.float32)
    one = frobenius(operator(RECTANGLE), key=KEY, probes=4)

    @jax.jit
    @jax.value_and_grad
    def f(a):
        estimate = frobenius(operators.from_dense(a), key=KEY, probes=4)
        return estimate.value + estimate.stderr

    value, gradient = f(a)
    np.testing.assert_allclose(value, scale * (one.value + one.stderr), rtol=1e-5)
    assert jnp.isfinite(gradient).all()
    assert bool(gradient.any()) == (scale > 0)


@pytest.mark.usefixtures("x64")
def test_they_are_differentiable_to_second_order():
    a = jnp.asarray(MATRIX[:3, :3])

    def f(a):
        A = operators.from_dense(a @ a)
        return tuple(g(A, key=KEY, probes=2).value for g in (trace, diagonal, frobenius))

    cases.check_second(f, (a,))


class TestErrors:
    """Each names the argument, what was expected and what came."""

    @pytest.mark.parametrize("estimate", [trace, diagonal, frobenius])
    def test_one_probe_has_no_error_bar(self, estimate):
        with pytest.raises(ValueError, match="probes is 1; expected at least 2"):
            estimate(operator(MATRIX, symmetric=True), key=KEY, probes=1)

    @pytest.mark.parametrize("estimate", [trace, diagonal])
    def test_the_operator_must_be_square(self, estimate):
        with pytest.raises(ValueError, match=r"not square.*\(3,\).*\(2,\)"):
            estimate(operator(np.ones((2, 3))), key=KEY)
