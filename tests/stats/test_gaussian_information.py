"""Entropies of Gaussians: scipy, each other, and float32 where it is in danger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import cases
from funcdl.stats import gaussian
from funcdl.stats.gaussian import Gaussian


def spd(seed, d):
    root = cases.normal(seed, d, d)
    return root @ root.T + 0.5 * np.eye(d)


def test_gaussians_have_the_entropies_of_scipy_and_of_their_inverses(x64):
    means, covariances = cases.normal(4, 2, 3), (spd(5, 3), spd(6, 3))
    p, q = (Gaussian(jnp.asarray(m), jnp.asarray(c)) for m, c in zip(means, covariances))
    expected = scipy.stats.multivariate_normal(means[0], covariances[0]).entropy()
    np.testing.assert_allclose(gaussian.entropy(p), expected)
    inverse, delta = np.linalg.inv(covariances[1]), means[1] - means[0]
    dets = [np.linalg.slogdet(c)[1] for c in covariances]
    trace = np.trace(inverse @ covariances[0])
    divergence = 0.5 * (trace + delta @ inverse @ delta - 3 + dets[1] - dets[0])
    np.testing.assert_allclose(gaussian.kl(p, q), divergence)
    np.testing.assert_allclose(gaussian.cross_entropy(p, q), expected + divergence)
    assert gaussian.kl(p, p) == 0


@pytest.mark.parametrize("indices", [(0,), (2, 0), (3, 1, 0)])
def test_the_information_between_coordinates_is_that_of_entropies(x64, indices):
    params = Gaussian(jnp.zeros(4), jnp.asarray(spd(7, 4)))
    rest = [i for i in range(4) if i not in indices]
    parts = (gaussian.marginal(params, block) for block in (indices, rest))
    expected = sum(gaussian.entropy(part) for part in parts) - gaussian.entropy(params)
    np.testing.assert_allclose(gaussian.mutual_information(params, indices), expected, rtol=1e-9)
    kl = gaussian.kl(params, params._replace(covariance=_blocks(params.covariance, indices)))
    np.testing.assert_allclose(gaussian.mutual_information(params, indices), kl, rtol=1e-9)


def _blocks(covariance, indices):
    inside = np.isin(np.arange(len(covariance)), indices)
    return jnp.where(inside[:, None] == inside[None], covariance, 0)


@pytest.mark.parametrize("rho", [1e-6, 1e-3, 0.5, 0.999])
def test_float32_keeps_the_information_of_small_correlations(rho):
    rho = np.float32(rho)
    params = Gaussian(jnp.zeros(2), jnp.asarray([[1, rho], [rho, 1]], jnp.float32))
    exact = -0.5 * np.log1p(-(np.longdouble(rho) ** 2))
    got = gaussian.mutual_information(params, [1])
    np.testing.assert_allclose(got, float(exact), rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_information_of_gaussians_is_differentiable_twice_in_both_modes():
    def measures(root, other):
        p, q = (Gaussian(r[0], r @ r.T + jnp.eye(2)) for r in (root, other))
        return gaussian.entropy(p) + gaussian.kl(p, q) + gaussian.cross_entropy(p, q)

    cases.check_second(measures, tuple(cases.normal(i, 2, 2) for i in (5, 6)))


@pytest.mark.usefixtures("x64")
def test_information_between_coordinates_is_differentiable_twice_in_both_modes():
    def measure(root):
        params = Gaussian(root[0], root @ root.T + jnp.eye(3))
        return gaussian.mutual_information(params, [0, 2])

    cases.check_second(measure, (cases.normal(5, 3, 3),))


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_float32_keeps_the_divergence_of_gaussians_nearly_the_same(distance):
    scale = np.float32(1 + distance)
    unit = Gaussian(jnp.zeros(2), jnp.eye(2))
    got = gaussian.kl(unit, unit._replace(covariance=scale * jnp.eye(2)))
    t = np.log(np.longdouble(scale))
    np.testing.assert_allclose(got, float(t + np.expm1(-t)), rtol=1e-6 + 3e-7 / distance)
    assert got >= 0


def test_a_lane_that_is_no_gaussian_spoils_no_other():
    unit = Gaussian(jnp.zeros(2), jnp.eye(2))
    scales = jnp.asarray([1.0, 4.0, -1.0])
    many = Gaussian(jnp.zeros((3, 2)), scales[:, None, None] * jnp.eye(2)[None])
    got = jax.jit(jax.vmap(gaussian.kl, (0, None)))(many, unit)
    np.testing.assert_allclose(got, [0, 3 - np.log(4), np.nan], rtol=1e-6, atol=1e-7)
