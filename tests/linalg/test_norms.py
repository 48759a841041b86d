"""Norms against numpy, and their derivatives where they are hardest: at zero and at ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import linalg, stats

P = (0, 0.5, 1, 1.5, 2, 3, 7, jnp.inf)
INDUCED = {
    1: linalg.one_norm,
    2: linalg.spectral_norm,
    np.inf: linalg.inf_norm,
    "fro": linalg.frobenius_norm,
    "nuc": linalg.nuclear_norm,
}


@pytest.mark.parametrize("p", P)
def test_vector_norms_are_those_of_numpy_over_all_the_range(p):
    x = np.append(cases.normal(0, 5), 0)
    true = np.linalg.norm(x, p)
    for c in (1.0, 1e20, 1e-20):
        value = linalg.norm(jnp.asarray(x * c, jnp.float32), p)
        np.testing.assert_allclose(value / (c if p else 1), true, rtol=2e-6)
    assert linalg.norm(jnp.zeros(3), p) == 0


@pytest.mark.parametrize("ord", INDUCED)
def test_matrix_norms_are_those_of_numpy(ord):
    for shape in ((3, 3), (4, 2)):
        a = cases.normal(1, *shape)
        np.testing.assert_allclose(
            INDUCED[ord](jnp.asarray(a, jnp.float32)), np.linalg.norm(a, ord), rtol=1e-6
        )


@pytest.mark.parametrize("p", P)
def test_derivatives_of_vector_norms_are_finite_at_zero_and_beside_zeros(p):
    f = lambda x: linalg.norm(x, p)
    square = lambda x: f(x) ** 2
    all_of = jax.jit(lambda x: (jax.grad(f)(x), jax.hessian(f)(x), jax.hessian(square)(x)))
    for x in (jnp.zeros(3), jnp.asarray([0.0, 2.0, -1.0])):
        for derivative in all_of(x):
            assert jnp.isfinite(derivative).all()
    np.testing.assert_array_equal(all_of(jnp.zeros(3))[0], 0)


@pytest.mark.parametrize("p", [1.5, 2, 3])
@pytest.mark.usefixtures("x64")
def test_gradients_beside_a_zero_are_the_closed_form(p):
    x = jnp.asarray([0.0, 2.0, -1.0])
    size = jnp.abs(x)
    true = jnp.sign(x) * size ** (p - 1) * (size**p).sum() ** (1 / p - 1)
    gradient = jax.jit(jax.grad(lambda x: linalg.norm(x, p)))
    np.testing.assert_allclose(gradient(x), true, rtol=1e-12)
    if p >= 2:
        n = (size**p).sum() ** (1 / p)
        bend = (p - 1) * (jnp.diag(size ** (p - 2)) * n ** (1 - p) - jnp.outer(true, true) / n)
        np.testing.assert_allclose(jax.jit(jax.jacfwd(gradient))(x), bend, atol=1e-12)


@pytest.mark.parametrize("f", [*INDUCED.values(), lambda a: linalg.schatten_norm(a, 3)])
def test_gradients_of_matrix_norms_are_zero_at_zero(f):
    both = jax.jit(lambda a: (jax.grad(f)(a), jax.hessian(f)(a)))
    gradient, bend = both(jnp.zeros((3, 2)))
    np.testing.assert_array_equal(gradient, 0)
    assert jnp.isfinite(bend).all()


@pytest.mark.parametrize(("p", "same"), [(1, "nuc"), (2, "fro"), (jnp.inf, 2)])
def test_schatten_norms_have_the_known_norms_among_them(p, same):
    a = cases.normal(2, 4, 3)
    value = linalg.schatten_norm(jnp.asarray(a, jnp.float32), p)
    np.testing.assert_allclose(value, np.linalg.norm(a, same), rtol=1e-6)


def test_large_exponents_do_not_overflow():
    a = jnp.diag(jnp.asarray([30.0, 20.0]))
    np.testing.assert_allclose(linalg.schatten_norm(a, 100), 30, rtol=1e-6)
    np.testing.assert_allclose(linalg.norm(jnp.asarray([30.0, 20.0]), 100), 30, rtol=1e-6)


def test_the_spectral_norm_shares_its_gradient_over_a_tie():
    gradient = jax.jit(jax.grad(linalg.spectral_norm))
    np.testing.assert_allclose(gradient(jnp.eye(4)), jnp.eye(4) / 4)


@pytest.mark.parametrize(("values", "true"), [([3, 2, 0], 2), ([0, 0, 0], 0), ([5, 1e-9, 0], 1)])
def test_rank_span_and_independence_see_through_rounding(values, true):
    q, p = (np.linalg.qr(cases.normal(i, 4, 4))[0] for i in (0, 1))
    a = jnp.asarray(q[:, :3] * values @ p[:3, :3], jnp.float32)
    assert linalg.rank(a) == true
    assert not linalg.linearly_independent(a)
    basis, rank = jax.jit(linalg.orth)(a)
    assert rank == true
    np.testing.assert_allclose(basis @ (basis.T @ a), a, atol=1e-5)
    np.testing.assert_allclose(jnp.diag(basis.T @ basis), np.arange(3) < true, atol=1e-6)


def test_a_tolerance_decides_what_counts():
    a = jnp.diag(jnp.asarray([1.0, 0.1, 0.01]))
    assert [linalg.rank(a, tol).item() for tol in (0.0, 0.05, 0.5)] == [3, 2, 1]
    np.testing.assert_allclose(jnp.diag(linalg.pinv(a, 0.05)), [1, 10, 0], rtol=1e-6)


@pytest.mark.parametrize("d", [1, 3])
def test_the_intrinsic_dimension_of_a_torus_is_covered_by_its_error(d):
    def estimate(key):
        angle = 6.2832 * jax.random.uniform(key, (400, d))  # a torus has no border
        return stats.intrinsic_dimension(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], 1))

    found = jax.lax.map(estimate, jax.random.split(jax.random.key(0), 40))
    np.testing.assert_allclose(found.value.mean(), d, rtol=0.05)
    spread = found.value.std()
    assert 0.7 * spread < found.stderr.mean() < 1.4 * spread


def test_samples_that_occur_twice_do_not_break_the_intrinsic_dimension():
    x = jax.random.normal(jax.random.key(1), (300, 2))
    found = stats.intrinsic_dimension(jnp.concatenate([x, x[:50]]))
    assert abs(found.value - 2) < 4 * found.stderr


@pytest.mark.parametrize("f", [lambda s: 1, lambda s: s > 0, lambda s: jnp.int32(s > 0)])
def test_a_function_with_integer_values_is_a_step_function(f):
    a = jnp.diag(jnp.asarray([1.0, 3.0]))
    assert linalg.spectral_sum(f, a) == 2
    assert (jax.grad(lambda a: linalg.spectral_sum(f, a))(a) == 0).all()
    assert jnp.allclose(linalg.matrix_function(f, a), jnp.eye(2))
