"""The log-determinant: its quadrature, its derivatives in every mode, what it refuses to know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from jax.tree_util import Partial

import cases
from funcdl import operators

KEY = jax.random.key(0)
N, PROBES = 6, 3
BASE = cases.symmetric(np.linspace(1, 4, N))
SLOPE, BEND = (cases.symmetric(0.3 * cases.normal(s, N), s) for s in (1, 2))
POINT = np.asarray([0.3, -0.2])


def signs(dtype=jnp.float64):
    return jax.random.rademacher(KEY, (PROBES, N), dtype)


def matrix(t):
    """A curve of positive matrices that do not commute with each other."""
    return BASE + t[0] * SLOPE + jnp.sin(t[1]) * BEND + t[0] * t[1] * (SLOPE @ SLOPE)


def product(t, v):
    return matrix(t) @ v


def estimate(t):
    A = operators.from_function(Partial(product, t), jnp.zeros(N), psd=True)
    return operators.logdet(A, key=KEY, probes=PROBES, steps=N, damping=t[0] ** 2)


def gradient(t):
    """The mean of ``zᵀ A⁻¹ dA z``, by a dense solve."""
    z = signs()

    def along(dt):
        damped = lambda t: matrix(t) + t[0] ** 2 * jnp.eye(N)
        a, da = jax.jvp(damped, (t,), (dt,))
        return (z.T * jnp.linalg.solve(a, da @ z.T)).sum() / PROBES

    return jnp.stack([along(e) for e in jnp.eye(2)])


@pytest.mark.usefixtures("x64")
def test_with_n_steps_it_is_the_quadratic_form_of_the_logarithm():
    found = estimate(jnp.asarray(POINT))
    values, vectors = np.linalg.eigh(matrix(POINT) + POINT[0] ** 2 * np.eye(N))
    inside = (np.asarray(signs()) @ vectors) ** 2
    samples = inside @ np.log(values)
    np.testing.assert_allclose(found.value, samples.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.stderr, samples.std(ddof=1) / PROBES**0.5, rtol=1e-10)
    assert found.matvecs == PROBES * N


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.usefixtures("x64")
def test_its_gradient_solves_with_the_same_probes(mode):
    t = jnp.asarray(POINT)
    got = jax.jit(mode(lambda t: estimate(t).value))(t)
    np.testing.assert_allclose(got, gradient(t), rtol=1e-8)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (jax.jacfwd, jax.jacrev),
        (jax.jacrev, jax.jacrev),
        pytest.param(jax.jacrev, jax.jacfwd, marks=pytest.mark.slow),
        pytest.param(jax.jacfwd, jax.jacfwd, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("x64")
def test_so_does_the_derivative_of_its_gradient_in_every_mode(outer, inner):
    t = jnp.asarray(POINT)
    got = jax.jit(outer(inner(lambda t: estimate(t).value)))(t)
    np.testing.assert_allclose(got, jax.jacfwd(gradient)(t), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_of_diagonal_matrices_it_is_exact_with_all_derivatives():
    def f(d, damping):
        A = operators.from_dense(jnp.diag(d), psd=True)
        return operators.logdet(A, key=KEY, probes=2, damping=damping).value

    d, damping = jnp.asarray([0.5, 1.0, 3.0]), jnp.asarray(0.1)
    np.testing.assert_allclose(f(d, damping), jnp.log(d + damping).sum(), rtol=1e-12)
    check_grads(jax.jit(f), (d, damping), order=2, modes=("fwd", "rev"))


def test_no_derivative_is_taken_through_the_ties_of_an_exhausted_krylov_space():
    def f(d):
        A = operators.from_dense(jnp.diag(d), psd=True)
        return operators.logdet(A, key=KEY, probes=2).value

    d = jnp.asarray([2.0, 2.0, 2.0, 1.0, 1.0])
    np.testing.assert_allclose(jax.jit(jax.hessian(f))(d), -jnp.diag(1 / d**2), rtol=1e-5)


def test_a_psd_operator_that_is_singular_has_minus_infinity_and_a_negative_one_nan():
    singular = operators.from_dense(jnp.zeros((3, 3)), psd=True)
    assert operators.logdet(singular, key=KEY, probes=2).value == -jnp.inf
    negative = operators.from_dense(jnp.diag(jnp.asarray([1.0, -2.0])), symmetric=True)
    found = operators.logdet(negative, key=KEY, probes=2, damping=1.0)
    assert jnp.isnan(found.value)
    assert jnp.isnan(found.stderr)
    positive = operators.logdet(negative, key=KEY, probes=2, damping=3.0)
    np.testing.assert_allclose(positive.value, np.log(4), rtol=1e-5)


def test_where_the_solve_does_not_converge_the_gradient_is_nan():
    def f(d):
        A = operators.from_dense(jnp.diag(d), psd=True)
        return operators.logdet(A, key=KEY, probes=2).value

    d = jnp.logspace(-12, 12, 5)  # beyond what float32 can solve
    assert jnp.isnan(jax.jit(jax.grad(f))(d)).all()


def test_of_trees_it_is_that_of_the_matrix():
    A, dense = cases.symmetric_function(0)
    found = operators.logdet(A, key=KEY, probes=400, damping=0.5)
    values = np.linalg.eigvalsh(dense)
    assert abs(found.value - np.log(values + 0.5).sum()) <= 4 * found.stderr
