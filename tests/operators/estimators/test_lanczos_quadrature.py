"""Densities of eigenvalues: exact cases, coverage of the error bars, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import cases
from funcdl import curvature, operators
from funcdl.operators import smoothed_density, spectral_density, spectral_mean

KEY = jax.random.key(0)
VALUES = cases.SPECTRA["random"]
MATRIX = cases.symmetric(VALUES)


def operator(a, **flags):
    return operators.from_dense(jnp.asarray(a, jnp.float32), **flags)


def test_error_bars_of_the_smoothed_density_cover_the_truth_as_often_as_they_say():
    probes, seeds, width = 8, 200, 0.5
    grid = jnp.linspace(-1.5, 1.5, 7)
    A = operator(MATRIX, symmetric=True)

    def curve(key):
        return smoothed_density(spectral_density(A, key=key, probes=probes, steps=20), grid, width)

    estimates = jax.jit(jax.vmap(curve))(jax.random.split(KEY, seeds))
    truth = scipy.stats.norm.pdf(np.asarray(grid)[:, None], VALUES, width).mean(1)
    allowed = scipy.stats.t.ppf(0.975, probes - 1) * estimates.stderr
    covered = np.abs(estimates.value - truth[None]) <= allowed
    assert covered.mean() >= 0.90
    assert covered.mean(0).min() >= 0.90  # at each point
    spread = estimates.value.std(0)
    np.testing.assert_allclose((estimates.stderr**2).mean(0) ** 0.5, spread, rtol=0.2)


def test_a_quadrature_is_exact_for_polynomials_of_its_probe():
    """Moments of z up to degree 2 steps - 1, and no further."""
    steps = 3
    A = operator(MATRIX, symmetric=True)
    density = spectral_density(A, key=KEY, probes=2, steps=steps)
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-5)
    assert (density.weights >= 0).all()
    assert density.matvecs == 2 * steps
    moments = spectral_mean(density, lambda x: x ** jnp.arange(7.0))
    z = np.asarray(_probes(2, 30), np.float64)
    power = np.stack([np.linalg.matrix_power(MATRIX, d) for d in range(7)])
    exact = np.einsum("pi,dij,pj->d", z, power, z) / (2 * 30)
    np.testing.assert_allclose(moments.value[:6], exact[:6], rtol=1e-4, atol=1e-4)
    assert abs(moments.value[6] - exact[6]) > 1e-2


def _probes(count, n):
    """Draw the same signs as ``spectral_density`` does for a matrix."""

    def draw(key):
        return jax.random.rademacher(jax.random.split(key, 1)[0], (n,), jnp.float32)

    return jax.vmap(draw)(jax.random.split(KEY, count))


@pytest.mark.parametrize("values", [np.ones(6), np.zeros(6), np.asarray([2.0])])
def test_densities_of_multiples_of_the_identity_are_one_point(values):
    density = spectral_density(operator(np.diag(values), symmetric=True), key=KEY, probes=2)
    for power in (1, 2, 3):
        moment = spectral_mean(density, lambda x, power=power: x**power)
        np.testing.assert_allclose(moment.value, values[0] ** power, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moment.stderr, 0, atol=1e-5)
    assert density.nodes.shape == (2, len(values))  # steps are cut to n


@pytest.mark.parametrize("name", ["low rank", "multiple", "graded"])
def test_an_exhausted_krylov_space_leaves_the_moments_right(name):
    values = cases.SPECTRA[name]
    A = operator(np.diag(values), symmetric=True)  # diagonal: every probe has the exact moments
    density = spectral_density(A, key=KEY, probes=2, steps=20)
    moments = spectral_mean(density, lambda x: x ** jnp.arange(5.0))
    exact = (values[:, None] ** np.arange(5)).mean(0)
    np.testing.assert_allclose(moments.value, exact, rtol=2e-5, atol=1e-6)  # odd ones may be 0


def test_the_density_of_a_net_is_that_of_its_dense_hessian():
    problem = cases.LOSSES["regression"].cast(jnp.float32)
    A = curvature.hessian(problem.loss, problem.params, problem.data)
    values = np.linalg.eigvalsh(cases.dense_hessian("regression"))
    n = len(values)
    grid = jnp.linspace(-1, 3, 9)
    curve = smoothed_density(spectral_density(A, key=KEY, probes=200, steps=n), grid, 0.3)
    truth = scipy.stats.norm.pdf(np.asarray(grid)[:, None], values, 0.3).mean(1)
    assert (np.abs(curve.value - truth) <= 4 * curve.stderr + 1e-4).all()


def test_a_smoothed_density_integrates_to_1():
    density = spectral_density(operator(MATRIX, symmetric=True), key=KEY, probes=2, steps=3)
    grid = jnp.linspace(-10, 10, 401)
    np.testing.assert_allclose(
        smoothed_density(density, grid, 0.5).value.sum() * 0.05, 1, rtol=1e-4
    )


def test_mapped_over_operators_it_is_the_loop_and_jit_is_eager():
    stack = jnp.stack([jnp.asarray(MATRIX, jnp.float32), jnp.eye(30)])

    def moment(a, key):
        A = operators.from_dense(a, symmetric=True)
        density = spectral_density(A, key=key, probes=2, steps=5)
        return spectral_mean(density, jnp.tanh).value

    keys = jax.random.split(KEY, 2)
    mapped = jax.jit(jax.vmap(moment))(stack, keys)
    alone = [moment(a, key) for a, key in zip(stack, keys)]
    np.testing.assert_allclose(mapped, jnp.asarray(alone), rtol=1e-4)


def test_trees_have_the_density_of_their_raveled_operator():
    A, matrix = cases.symmetric_function(0)
    density = spectral_density(A, key=KEY, probes=2, steps=6)
    flat = spectral_density(operator(matrix, symmetric=True), key=KEY, probes=2, steps=6)
    np.testing.assert_allclose(density.nodes, flat.nodes, rtol=1e-4, atol=1e-5)


EXHAUSTED = {
    "repeated": [3.0, 3.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0],
    "identity": [1.0] * 8,
    "zero": [0.0] * 8,
    "low rank": [2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "never": np.linspace(0, 3, 8),
}


def curve(x):
    return jnp.tanh(x) + jnp.exp(-(x**2))


@pytest.mark.parametrize("rotated", [False, True])
def test_gradients_are_right_where_the_krylov_space_is_exhausted(rotated):
    """The derivative of ``zᵀ f(A) z / n`` in the eigenvalues is ``f'(λ_i) (z . v_i)² / n``."""
    q = np.linalg.qr(cases.normal(0, 8, 8))[0] if rotated else np.eye(8)

    @jax.jit
    @jax.grad
    def gradient(values):
        A = operators.from_dense((q * values[None]) @ q.T, symmetric=True)
        return spectral_mean(spectral_density(A, key=KEY, probes=2), curve).value

    inside = (np.asarray(_probes(2, 8)) @ q) ** 2
    for values in EXHAUSTED.values():
        slope = np.asarray(jax.vmap(jax.grad(curve))(jnp.asarray(values)))
        expected = (inside * slope).mean(0) / 8
        np.testing.assert_allclose(gradient(jnp.asarray(values)), expected, atol=1e-5)


def test_second_derivatives_are_right_or_nan():
    def moment(values):
        A = operators.from_dense(jnp.diag(values), symmetric=True)
        return spectral_mean(spectral_density(A, key=KEY, probes=2), curve).value

    hessian = jax.jit(jax.hessian(moment))
    for name, values in EXHAUSTED.items():
        got = hessian(jnp.asarray(values))
        if name == "never":
            bend = jax.vmap(jax.grad(jax.grad(curve)))(jnp.asarray(values))
            np.testing.assert_allclose(got, jnp.diag(bend) / 8, atol=1e-4)
        else:
            assert jnp.isnan(got).all()


class TestErrors:
    """Each names the argument, what was expected and what came."""

    def test_one_probe_has_no_error_bar(self):
        with pytest.raises(ValueError, match="probes is 1; expected at least 2"):
            spectral_density(operator(MATRIX, symmetric=True), key=KEY, probes=1)

    def test_the_operator_must_be_square(self):
        with pytest.raises(ValueError, match=r"not square.*\(3,\).*\(2,\)"):
            spectral_density(operator(np.ones((2, 3))), key=KEY)

    def test_a_density_needs_a_symmetric_operator(self):
        with pytest.raises(ValueError, match="not marked symmetric"):
            spectral_density(operator(MATRIX), key=KEY)
