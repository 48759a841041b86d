"""The Laplace approximation where it is exact: linear models with Gaussian noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

import cases
from funcdl import curvature, operators, per_example
from funcdl.curvature import laplace, log_evidence, predictive
from funcdl.data import Batches

N, DELTA = 12, 0.7
X, Y = cases.normal(0, N, 3), cases.normal(1, N)
FEATURES = np.c_[X, np.ones(N)]
COVARIANCE = np.linalg.inv(FEATURES.T @ FEATURES + DELTA * np.eye(4))
pytestmark = pytest.mark.usefixtures("x64")


def f(params, batch):
    return jnp.matmul(batch[0], params["w"]) + params["b"][None]


def loss(z, batch):
    """Minus the log-density of y, of unit variance."""
    return (0.5 * (z[:, 0] - batch[1]) ** 2).mean() + 0.5 * jnp.log(2 * jnp.pi)


def data():
    return jnp.asarray(X), jnp.asarray(Y)


def best():
    w = COVARIANCE @ FEATURES.T @ Y
    return {"w": jnp.asarray(w[:3, None]), "b": jnp.asarray(w[3:])}


def gauss_newton():
    return curvature.ggn(f, loss, best(), data())


@functools.cache
def posterior():
    A = operators.materialize(gauss_newton())
    return laplace(A, best(), examples=N, prior_precision=DELTA)


def test_it_is_the_posterior_of_a_linear_model():
    order = ravel_pytree({"w": jnp.arange(3), "b": jnp.asarray([3])})[0]
    expected = np.linalg.inv(COVARIANCE)[np.ix_(order, order)]
    np.testing.assert_allclose(posterior().precision.dense(), expected, rtol=1e-12)


def test_the_evidence_is_the_density_of_all_the_data():
    found = log_evidence(posterior(), loss(f(best(), data()), data()))
    marginal = FEATURES @ FEATURES.T / DELTA + np.eye(N)
    expected = scipy.stats.multivariate_normal(np.zeros(N), marginal).logpdf(Y)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_predictions_carry_the_covariance_and_do_not_depend_on_the_split():
    new = jnp.asarray(cases.normal(2, 5, 3)), jnp.zeros(5)
    rows = np.c_[new[0], np.ones(5)]
    for batch in (new, Batches(new, 2)):
        found = predictive(posterior(), f, batch)
        np.testing.assert_allclose(found.mean, f(best(), new), rtol=1e-12)
        expected = np.einsum("bi,ij,bj->b", rows, COVARIANCE, rows)
        np.testing.assert_allclose(found.covariance[:, 0, 0], expected, rtol=1e-12)


def test_a_block_lets_the_other_parameters_stand():
    A = operators.materialize(gauss_newton().block("w"))
    found = laplace(A, best(), examples=N, prior_precision=DELTA)
    inverse = np.linalg.inv(X.T @ X + DELTA * np.eye(3))
    expected = np.einsum("bi,ij,bj->b", X, inverse, X)
    outputs = predictive(found, f, data())
    np.testing.assert_allclose(outputs.covariance[:, 0, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(outputs.mean, f(best(), data()), rtol=1e-12)
    slope = jax.grad(
        lambda w: log_evidence(found._replace(params=best() | {"w": w}), jnp.zeros(()))
    )
    np.testing.assert_allclose(slope(best()["w"]), -DELTA * best()["w"], rtol=1e-12)


def test_the_evidence_can_be_maximised_in_the_prior_precision():
    A = operators.materialize(gauss_newton())

    @jax.jit
    @jax.vmap
    @jax.value_and_grad
    def evidence(delta):
        found = laplace(A, best(), examples=N, prior_precision=delta)
        return log_evidence(found, loss(f(best(), data()), data()))

    deltas = jnp.asarray([0.3, 0.3 - 1e-5, 0.3 + 1e-5])
    values, slopes = evidence(deltas)
    np.testing.assert_allclose(slopes[0], (values[2] - values[1]) / 2e-5, rtol=1e-7)


def test_factors_and_diagonals_give_posteriors_of_their_own():
    gauss, given = gauss_newton(), {"examples": N, "prior_precision": DELTA}
    diagonal = operators.from_diagonal(per_example.ggn_diagonal(f, loss)(best(), data()), psd=True)
    factors = curvature.kfac(f, loss, best(), data())
    blocks = [gauss.block(leaf).dense() for leaf in ("b", "w")]
    expected = {  # in a linear model K-FAC is exact but for what couples two leaves
        "diagonal": (diagonal, np.diag(np.diag(gauss.dense()))),
        "kfac": (factors, scipy.linalg.block_diag(*blocks)),
        "last": (factors.block("w"), blocks[1]),
        "last of a diagonal": (diagonal.block("w"), np.diag(np.diag(blocks[1]))),
        "last, written out": (operators.materialize(gauss).block("w"), blocks[1]),
    }
    for A, matrix in expected.values():
        found, precision = laplace(A, best(), **given), N * matrix + DELTA * np.eye(len(matrix))
        np.testing.assert_allclose(found.precision.dense(), precision, rtol=1e-10, atol=1e-12)
        evidence = log_evidence(found._replace(params=jax.tree.map(jnp.zeros_like, best())), 0.0)
        volume = np.linalg.slogdet(precision)[1] - len(matrix) * np.log(DELTA)
        np.testing.assert_allclose(evidence, -volume / 2, rtol=1e-10)
        rows = np.c_[np.ones(N), X][:, -len(matrix) :]
        variance = np.einsum("bi,ij,bj->b", rows, np.linalg.inv(precision), rows)
        outputs = predictive(found, f, data())
        np.testing.assert_allclose(outputs.covariance[:, 0, 0], variance, rtol=1e-10)
