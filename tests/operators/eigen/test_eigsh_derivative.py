"""Derivatives of eigenpairs to order 2 against differentiation of a dense eigh in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import cases
from funcdl import operators

KEY = jax.random.key(0)
SPECTRUM = np.asarray([3.0, -2.5, 2.0, 1.2, -0.7, 0.4, 0.1, 0.0])
BASE, SLOPE, BEND = (
    cases.symmetric(SPECTRUM),
    *(cases.symmetric(cases.normal(s, 8), s) for s in (1, 2)),
)
PROBES = cases.normal(3, 2, 8)


def matrix(t):
    """A curve of matrices, so that first and second derivatives are few numbers."""
    return BASE + t[0] * SLOPE + jnp.sin(t[1]) * BEND + t[0] * t[1] * (SLOPE @ SLOPE)


def solve(a, which="LM", k=2, **options):
    return operators.eigsh(
        operators.from_dense(a, symmetric=True), k, key=KEY, which=which, tol=1e-10, **options
    )


def invariants(values, vectors):
    """What does not depend on the sign of the vectors."""
    return jnp.concatenate([values, (vectors * PROBES).sum(1) ** 2])


def ours(t, which):
    pairs = solve(matrix(t), which)
    return invariants(pairs.values, pairs.vectors)


def dense(t, which):
    values, vectors = jnp.linalg.eigh(matrix(t))
    order = jnp.argsort({"LM": -jnp.abs(values), "LA": -values, "SA": values}[which])[:2]
    return invariants(values[order], vectors[:, order].T)


POINT = np.asarray([0.1, -0.05])


FIRST = [("LM", jax.jacfwd), ("LM", jax.jacrev), ("LA", jax.jacrev), ("SA", jax.jacfwd)]


@pytest.mark.parametrize(("which", "mode"), FIRST)
@pytest.mark.usefixtures("x64")
def test_values_and_vectors_have_the_derivatives_of_a_dense_eigh(which, mode):
    t = jnp.asarray(POINT)
    got, expected = (jax.jit(mode(f), static_argnums=1)(t, which) for f in (ours, dense))
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7)


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
def test_so_they_have_at_second_order_in_every_mode(outer, inner):
    t = jnp.asarray(POINT)
    got = jax.jit(outer(inner(lambda t: ours(t, "LM"))))(t)
    expected = jax.jit(jax.hessian(lambda t: dense(t, "LM")))(t)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_values_have_the_derivatives_of_finite_differences():
    f = jax.jit(lambda t: solve(matrix(t)).values)
    check_grads(f, (jnp.asarray(POINT),), order=2, modes=("fwd", "rev"))


def test_float32_matrices_are_differentiable_where_float64_is_on():
    with jax.enable_x64(True):
        a = jnp.asarray(BASE, jnp.float32)
        gradient = jax.eval_shape(jax.grad(lambda a: solve(a).vectors[0, 0]), a)
    assert gradient.dtype == jnp.float32


TIES = {
    "inside": ([3.0, 3.0, 1.0, 0.5, 0.2, 0.1], 6),
    "one copy found": ([3.0, 3.0, 1.0, 0.5, 0.2, 0.1], 2),
    "with the rest": ([3.0, 2.0, 2.0, 0.5, 0.2, 0.1], 2),
    "identity": ([1.0] * 6, 2),
    "zero": ([0.0] * 6, 2),
    "null space": ([3.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2),
    "only in the rest": ([3.0, -2.0, 1.0, 1.0, 1.0, 1.0], 2),
    "opposite signs": ([3.0, -2.0, 2.0, 0.5, 0.2, 0.1], 2),
}


@pytest.mark.parametrize("name", TIES)
@pytest.mark.usefixtures("x64")
def test_vectors_of_a_repeated_value_have_nan_derivatives_and_others_right_ones(name):
    spectrum, k = TIES[name]
    a = jnp.asarray(cases.symmetric(spectrum, 5))
    slope = cases.symmetric(cases.normal(1, 6), 1)
    pairs, tangent = jax.jvp(lambda a: solve(a, k=k), (a,), (jnp.asarray(slope),))
    assert pairs.converged.all()
    v = np.asarray(pairs.vectors)
    np.testing.assert_allclose(tangent.values, ((v @ slope) * v).sum(1), atol=1e-10)
    values, u = np.linalg.eigh(a)
    for i in range(k):
        gap = pairs.values[i] - values
        same = np.abs(gap) < 1e-9
        if same.sum() > 1:
            assert jnp.isnan(tangent.vectors[i]).all()
        else:
            expected = u @ (np.where(same, 0, u.T @ slope @ v[i]) / np.where(same, 1, gap))
            np.testing.assert_allclose(tangent.vectors[i], expected, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_the_gradient_of_repeated_values_is_not_spoilt_by_their_vectors():
    a = jnp.eye(6)
    gradient = jax.grad(lambda a: solve(a).values.sum())(a)
    v = solve(a).vectors
    np.testing.assert_allclose(gradient, v.T @ v, atol=1e-10)
