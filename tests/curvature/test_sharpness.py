"""Sharpness of losses whose maxima are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import curvature
from funcdl.data import Batches


def test_it_is_the_largest_eigenvalue_and_not_the_largest_magnitude(key):
    loss, params, batch = cases.LOSSES["regression"].cast(jnp.float32)
    values = np.linalg.eigvalsh(cases.dense_hessian("regression"))
    found = curvature.sharpness(loss, params, batch, key=key, tol=1e-4)
    assert found.converged.all()
    np.testing.assert_allclose(found.values[0], values[-1], rtol=1e-4)


def test_it_can_be_a_penalty_that_training_lowers(key):
    loss, params, batch = cases.LOSSES["regression"].cast(jnp.float32)
    penalty = lambda p: curvature.sharpness(loss, p, batch, key=key, tol=1e-5).values[0]
    slope = jax.jit(jax.grad(penalty))
    before = penalty(params)
    for _ in range(10):
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, slope(params))
    assert penalty(params) < 0.8 * before


def test_of_a_quadratic_the_worst_loss_is_that_along_the_top_eigenvector(key):
    a = cases.symmetric([5.0, 2.0, 1.0, 0.5])
    loss = lambda x: 0.5 * jnp.vdot(x, jnp.asarray(a, jnp.float32) @ x)
    found = curvature.worst_loss(loss, jnp.zeros(4), radius=0.2, key=key)
    np.testing.assert_allclose(found.value, 0.5 * 5 * 0.2**2, rtol=1e-5)
    np.testing.assert_allclose(found.increase, found.value, rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(found.displacement), 0.2, rtol=1e-5)


def test_the_worst_is_no_better_than_the_center_and_does_not_depend_on_the_split(key):
    loss, params, batch = cases.LOSSES["classification"].cast(jnp.float32)
    search = jax.jit(lambda p, d: curvature.worst_loss(loss, p, d, radius=0.3, key=key))
    whole, split = search(params, batch), search(params, Batches(batch, 3))
    np.testing.assert_allclose(whole.value, split.value, rtol=1e-5)
    assert whole.increase > 0
    there = jax.tree.map(jnp.add, params, whole.displacement)
    np.testing.assert_allclose(loss(there, batch), whole.value, rtol=1e-5)
    inverted = lambda x: -(x**2).sum()
    center = curvature.worst_loss(inverted, jnp.zeros(3), radius=1.0, key=key)
    assert center.increase == 0
    assert not center.displacement.any()


@pytest.mark.parametrize("bad", [{"radius": 0.0}, {"radius": 1.0, "steps": 0}])
def test_an_empty_ball_and_no_steps_are_refused(bad, key):
    with pytest.raises(ValueError, match="expected"):
        curvature.worst_loss(lambda x: x.sum(), jnp.ones(2), key=key, **bad)
