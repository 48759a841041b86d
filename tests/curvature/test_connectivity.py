"""Curves between solutions whose best form is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import curvature
from funcdl.curvature import bezier, loss_barrier, mode_connectivity
from funcdl.data import Batches
from funcdl.losses import Mean

X = np.random.default_rng(0).normal(size=(10, 2))
ENDS = {"w": jnp.asarray([2.0, 0.5])}, {"w": jnp.asarray([-2.0, -0.5])}


def product(params, batch):
    """Half the mean square of x (w0 w1 - 1): both ends are solutions, between them is a saddle."""
    error = batch[0] * (params["w"][0] * params["w"][1] - 1)
    weight = batch[1].sum()
    return Mean(0.5 * (batch[1] * error**2).sum(), weight)


@pytest.fixture(scope="module")
def connected():
    batch = jnp.asarray(X[:, 0]), jnp.ones(10)
    options = {"key": jax.random.key(0), "steps": 300, "optimizer": optax.adam(0.1)}
    data = [batch, Batches(batch, 10), Batches(batch, 4)]
    return [mode_connectivity(product, ENDS, each, **options) for each in data]


def test_the_loss_along_line_and_curve_is_the_one_of_its_points(connected):
    moment = (np.float64(np.float32(X[:, 0])) ** 2).mean() / 2
    for found in connected:
        ends = [np.float64(end["w"]) for end in ENDS]
        t = np.linspace(0, 1, 21)[:, None]
        line = (1 - t) * ends[0] + t * ends[1]
        np.testing.assert_allclose(found.line, moment * (line.prod(axis=1) - 1) ** 2, atol=1e-6)
        bend = np.float64(found.bend["w"])
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * bend + t**2 * ends[1]
        np.testing.assert_allclose(found.curve, moment * (curve.prod(axis=1) - 1) ** 2, atol=1e-5)
        np.testing.assert_allclose(found.grid, t[:, 0], atol=1e-7)


def test_the_bend_lowers_the_mean_loss_and_a_whole_batch_is_batches_of_one(connected):
    for found in connected:
        assert found.curve.mean() < found.line.mean() - 0.02
    np.testing.assert_allclose(connected[0].bend["w"], connected[1].bend["w"], rtol=1e-4)


def test_a_straight_valley_stays_straight():
    loss = lambda w: (w[1] - 1) ** 2
    ends = jnp.asarray([0.0, 1.0]), jnp.asarray([4.0, 1.0])
    options = {"key": jax.random.key(0), "steps": 20, "optimizer": optax.sgd(0.1)}
    found = jax.jit(lambda ends: mode_connectivity(loss, ends, **options))(ends)
    np.testing.assert_allclose(found.bend, [2, 1])
    np.testing.assert_allclose(found.curve, 0, atol=1e-12)
    assert loss_barrier(found.line) == 0
    np.testing.assert_allclose(bezier(ends, found.bend, 0.25), [1, 1])


def test_a_barrier_is_measured_from_the_line_between_the_ends_losses():
    assert curvature.loss_barrier(jnp.asarray([1.0, 5.0, 3.0])) == 3
    assert curvature.loss_barrier(jnp.asarray([1.0, 1.0, 3.0])) == 0
