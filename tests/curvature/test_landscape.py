"""Losses along lines and planes, and how much subspaces share."""

import jax
import jax.numpy as jnp
import numpy as np

import cases
from funcdl import curvature, operators
from funcdl.data import Batches


def test_the_landscape_is_the_loss_at_every_point_whatever_the_split(key):
    problem = cases.LOSSES["regression"].cast(jnp.float32)
    loss, params, batch = problem
    directions = [curvature.filter_normalized(k, params) for k in jax.random.split(key)]
    grid = jnp.linspace(-1, 1, 3)
    found = curvature.loss_landscape(loss, params, directions, grid, batch)
    assert found.shape == (3, 3)
    for i, s in enumerate(grid):
        for j, t in enumerate(grid):
            point = jax.tree.map(lambda p, d, e, s=s, t=t: p + s * d + t * e, params, *directions)
            np.testing.assert_allclose(found[i, j], loss(point, batch), rtol=1e-5)
    split = curvature.loss_landscape(loss, params, directions, grid, Batches(batch, 3))
    np.testing.assert_allclose(split, found, rtol=1e-5)
    line = curvature.loss_landscape(loss, params, directions[:1], grid, batch)
    np.testing.assert_allclose(line, found[:, 1], rtol=1e-5)


def test_its_second_derivative_is_that_of_the_hessian():
    loss, params, batch = cases.LOSSES["regression"].cast(jnp.float32)
    d = jax.tree.map(jnp.ones_like, params)
    slope = jax.grad(lambda t: curvature.loss_landscape(loss, params, [d], t[None], batch)[0])
    bend = jax.jit(jax.grad(lambda t: slope(t)))(0.0)
    product = curvature.hessian(loss, params, batch) @ d
    expected = sum(x.sum() for x in jax.tree.leaves(product))
    np.testing.assert_allclose(bend, expected, rtol=1e-4)


def test_filters_have_the_length_of_the_parameters_and_a_zero_filter_stays(key):
    kernel = jnp.asarray(cases.normal(0, 3, 3, 2, 4), jnp.float32).at[..., 1].set(0)
    d = curvature.filter_normalized(key, {"kernel": kernel, "bias": jnp.ones(4)})
    length = lambda x: np.linalg.norm(np.asarray(x).reshape(-1, 4), axis=0)
    np.testing.assert_allclose(length(d["kernel"]), length(kernel), rtol=1e-5)
    assert not d["bias"].any()


def test_a_subspace_shares_all_with_itself_and_does_not_depend_on_its_basis(key):
    A = operators.from_dense(jnp.diag(jnp.arange(1.0, 9.0)), symmetric=True)
    pairs = operators.eigsh(A, 3, key=key, tol=1e-5)
    turned = jnp.linalg.qr(jax.random.normal(key, (3, 3)))[0] @ pairs.vectors
    np.testing.assert_allclose(curvature.subspace_overlap(pairs.vectors, turned), 1, rtol=1e-4)
    other = jnp.eye(8)[:2]
    np.testing.assert_allclose(curvature.subspace_overlap(pairs.vectors, other), 0, atol=1e-6)
