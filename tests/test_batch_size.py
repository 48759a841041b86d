"""A mean is unchanged when the batch is repeated, a sum doubles: read from the jaxpr."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import _batch_size, curvature, losses, per_example
from funcdl.data import Batches
from funcdl.losses import Mean

PARAMS = jnp.asarray([[0.3, -0.2], [0.1, 0.4], [0.5, 0.2]])
BATCH = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32),
    "y": jnp.asarray([0, 1, 1, 0, 1, 0, 0, 1]),
    "m": jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
}


def each(w, batch):
    return optax.softmax_cross_entropy_with_integer_labels(batch["x"] @ w, batch["y"])


def looped(w, batch):
    def step(total, row):
        return total + jnp.tanh(row @ w).sum(), None

    return jax.lax.scan(step, 0.0, batch["x"])[0]


def layers(w, batch):
    x = jax.lax.scan(lambda x, _: (jnp.tanh(x), None), batch["x"] @ w, None, length=3)[0]
    return (x**2).sum() / x.shape[0]


# name: (loss, the power with which it grows, or None where it is not a power)
LOSSES = {
    "mean": (lambda w, b: each(w, b).mean(), 0),
    "sum": (lambda w, b: each(w, b).sum(), 1),
    "sum over n": (lambda w, b: each(w, b).sum() / len(b["y"]), 0),
    "sum times 1 / n": (lambda w, b: (each(w, b) * (1 / len(b["y"]))).sum(), 0),
    "sum over a constant": (lambda w, b: each(w, b).sum() / 8, 1),
    "sum over n - 1": (lambda w, b: each(w, b).sum() / (len(b["y"]) - 1), None),
    "mean over n": (lambda w, b: each(w, b).mean() / len(b["y"]), -1),
    "mean with regularizer": (lambda w, b: each(w, b).mean() + 0.1 * (w**2).sum(), 0),
    "sum with regularizer": (lambda w, b: each(w, b).sum() + 0.1 * (w**2).sum(), None),
    "all divided": (lambda w, b: (each(w, b).sum() + len(b["y"]) * (w**2).sum()) / len(b["y"]), 0),
    "mean over classes": (lambda w, b: jnp.square(b["x"] @ w).mean(), 0),
    "dot product": (lambda w, b: each(w, b) @ b["m"], 1),
    "vmap": (lambda w, b: jax.vmap(lambda x: jnp.sin(x @ w).sum())(b["x"]).mean(), 0),
    "layers in a scan": (layers, 0),
    "Mean": (lambda w, b: Mean((b["m"] * each(w, b)).sum(), b["m"].sum()), 0),
    "Mean of a mean": (lambda w, b: Mean(each(w, b).mean(), b["m"].sum()), -1),
    "masked": (lambda w, b: losses.masked_softmax_cross_entropy(b["x"] @ w, b["y"], b["m"]), 0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_power_is_that_of_repeated_batches(name):
    loss, power = LOSSES[name]
    traces = _batch_size.two_traces(loss, PARAMS, BATCH)
    found = _batch_size.growth(loss, PARAMS, BATCH, traces)
    if power is not None:
        assert abs(found - power) < 1e-6
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), BATCH)
        one, two = (_value(loss(PARAMS, b)) for b in (BATCH, twice))
        np.testing.assert_allclose(two / one, 2.0**power, rtol=1e-5)
    else:
        assert found != 0


def _value(x):
    return x.total / x.weight if isinstance(x, Mean) else x


def test_a_loop_over_examples_is_unknown():
    traces = _batch_size.two_traces(looped, PARAMS, BATCH)
    assert _batch_size.growth(looped, PARAMS, BATCH, traces) == _batch_size.UNKNOWN


def outputs(w, batch):
    return batch["x"] @ w


def total(z, batch):
    return optax.softmax_cross_entropy_with_integer_labels(z, batch["y"]).sum()


USES = {
    "grad": lambda loss: per_example.grad(loss)(PARAMS, BATCH),
    "grad_norm": lambda loss: per_example.grad_norm(loss)(PARAMS, BATCH),
    "noise_scale": lambda loss: curvature.noise_scale(loss, PARAMS, BATCH),
    "hessian": lambda loss: curvature.hessian(loss, PARAMS, BATCH),
    "hessian of Batches": lambda loss: curvature.hessian(loss, PARAMS, Batches(BATCH, 3)),
    "fisher": lambda loss: per_example.fisher_factors(loss)(PARAMS, BATCH),
    "clipped_grad": lambda loss: per_example.clipped_grad(loss, 1.0)(PARAMS, BATCH),
}
SPLIT = {
    "ggn": curvature.ggn,
    "kfac": curvature.kfac,
    "ekfac": curvature.ekfac,
    "fisher_empirical": curvature.fisher_empirical,
}


@pytest.mark.parametrize("name", USES)
def test_a_sum_over_the_examples_is_refused(name):
    with pytest.raises(ValueError, match=r"sum over the examples.*\.mean\(\).*losses\.Mean"):
        USES[name](LOSSES["sum"][0])


@pytest.mark.parametrize("name", SPLIT)
def test_so_it_is_where_the_loss_takes_outputs(name):
    with pytest.raises(ValueError, match=r"sum over the examples.*\.mean\(\).*losses\.Mean"):
        SPLIT[name](outputs, total, PARAMS, BATCH)


def test_a_masked_mean_is_referred_to_the_weighted_mean():
    loss = lambda w, b: (each(w, b) * b["m"]).sum() / b["m"].sum()
    with pytest.raises(ValueError, match=r"return losses\.Mean\(total, weight\)"):
        per_example.grad(loss)(PARAMS, BATCH)


@pytest.mark.parametrize("mask", [BATCH["m"], 3 * BATCH["m"]])
def test_examples_of_weight_zero_are_absent_from_the_noise_scale(mask):
    loss = lambda w, b: Mean((b["m"] * each(w, b)).sum(), b["m"].sum())
    mean = lambda w, b: each(w, b).mean()
    kept = jax.tree.map(lambda x: x[BATCH["m"] > 0], BATCH)
    found = curvature.noise_scale(loss, PARAMS, BATCH | {"m": mask})
    np.testing.assert_allclose(found, curvature.noise_scale(mean, PARAMS, kept), rtol=1e-4)
    few = BATCH | {"m": jnp.asarray([1.0, 1.0, 0, 0, 0, 0, 0, 0])}
    assert jnp.isnan(curvature.noise_scale(loss, PARAMS, few).value)
