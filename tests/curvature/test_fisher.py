"""The exact Fisher matrix, against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl import curvature, losses
from funcdl.data import Batches

X, LABEL = cases.normal(0, 5, 2), np.asarray([0, 2, 1, 1, 0])
PARAMS = {"w": cases.normal(1, 2, 3), "b": cases.normal(2, 3)}


def f(params, batch):
    return jnp.tanh(jnp.matmul(batch[0], params["w"])) + params["b"][None]


def natural(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def bent(z, batch):
    """Cross-entropy of logits that are no natural parameters."""
    return losses.softmax_cross_entropy(jnp.sin(z) * 2, batch[1])


def bent_label(draws):
    draw = curvature.draw_label(draws)
    return lambda key, z, batch: draw(key, 2 * jnp.sin(z), batch)


def seen(key, z, batch):
    """No draw at all: twice what was observed."""
    return jax.tree.map(lambda x: jnp.stack([x, x]), batch)


@jax.jit
def written_out(operators):
    return [a.dense() for a in operators]


@pytest.mark.usefixtures("x64")
def test_of_natural_parameters_it_is_the_gauss_newton_matrix_of_others_its_definition():
    params, batch = cases.cast((PARAMS, (X, LABEL)), jnp.float64)
    outcomes = curvature.every_label(3)
    found = written_out(
        [
            curvature.fisher_exact(f, natural, params, batch, outcomes=outcomes),
            curvature.ggn(f, natural, params, batch),
            curvature.fisher_exact(f, bent, params, batch, outcomes=outcomes),
            curvature.fisher_exact(f, bent, params, Batches(batch, 2), outcomes=outcomes),
            curvature.ggn(f, bent, params, batch),
        ]
    )
    np.testing.assert_allclose(found[0], found[1], atol=1e-14)
    flat, unravel = ravel_pytree(params)

    def one(x, label):
        batch = x[None], label[None]
        return bent(f(unravel(flat), batch), batch)

    def score(x, label):
        batch = x[None], label[None]
        return jax.grad(lambda p: bent(f(unravel(p), batch), batch))(flat)

    labels = jnp.arange(3)
    every = lambda g: jax.vmap(lambda x: jax.vmap(lambda y: g(x, y))(labels))(batch[0])
    g, p = every(score), jnp.exp(-every(one))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    expected = np.einsum("iy,iyp,iyq->pq", p, g, g) / len(X)
    np.testing.assert_allclose(found[2], expected, atol=1e-14)
    np.testing.assert_allclose(found[3], expected, atol=1e-14)
    assert np.abs(found[4] - expected).max() > 0.1  # there the two are not the same


def test_what_has_no_axis_of_examples_is_the_same_for_all():
    params, batch = cases.cast((PARAMS, (X, LABEL)), jnp.float32)

    def scaled(z, batch):
        return losses.softmax_cross_entropy(z * batch["scale"], batch["label"])

    def draw(key, z, batch):
        label = jax.random.categorical(key, z * batch["scale"], shape=(2, *batch["label"].shape))
        many = {name: jnp.stack([x, x]) for name, x in batch.items()}
        return many | {"label": label.astype(batch["label"].dtype)}

    g = lambda params, batch: f(params, (batch["x"], batch["label"]))
    data = {"x": batch[0], "label": batch[1], "scale": jnp.float32(0.5)}
    scalar = curvature.fisher_mc(g, scaled, params, data, key=jax.random.key(0), draw=draw)
    column = data | {"scale": jnp.full((5, 1), 0.5)}
    each = curvature.fisher_mc(g, scaled, params, column, key=jax.random.key(0), draw=draw)
    np.testing.assert_allclose(scalar.dense(), each.dense(), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_with_drawn_labels_it_is_right_on_average_and_the_same_for_any_split():
    params, batch = cases.cast((PARAMS, (X, LABEL)), jnp.float64)
    key = jax.random.key(0)
    sampled = lambda data, draw: curvature.fisher_mc(f, bent, params, data, key=key, draw=draw)
    found = written_out(
        [
            sampled(batch, bent_label(200_000)),
            curvature.fisher_exact(f, bent, params, batch, outcomes=curvature.every_label(3)),
            sampled(batch, bent_label(2)),
            sampled(Batches(batch, 2), bent_label(2)),
            sampled(batch, seen),
            curvature.fisher_empirical(f, bent, params, batch),
        ]
    )
    size = np.abs(found[1]).max()
    assert np.abs(found[0] - found[1]).max() < 0.01 * size  # 1e6 draws
    np.testing.assert_allclose(found[2], found[3], atol=1e-14)
    assert np.abs(found[2] - found[1]).max() > 0.05 * size  # two draws an example are noise
    np.testing.assert_allclose(found[4], found[5], atol=1e-14)
    assert np.linalg.eigvalsh(found[2]).min() > -1e-14
