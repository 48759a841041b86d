"""Evaluation sees each example once; its standard errors cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from funcdl import data, losses, nn, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 5)).astype(np.float32)
LABELS = RNG.integers(0, 3, 23).astype(np.int32)
MODEL = nn.from_linen(linen.Dense(3))
OBJECTIVE = train.supervised(MODEL, losses.softmax_cross_entropy, {"accuracy": losses.accuracy})


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), X)


@pytest.mark.parametrize("size", [1, 5, 22, 23])
def test_no_result_depends_on_the_split(variables, size):
    whole = train.evaluate(OBJECTIVE, variables, (X, LABELS))
    parts = train.evaluate(OBJECTIVE, variables, data.Batches((X, LABELS), size))
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(parts[name].value, whole[name].value, rtol=1e-6)
        np.testing.assert_allclose(parts[name].stderr, whole[name].stderr, rtol=1e-5)


def test_the_standard_error_is_that_of_the_mean_over_examples(variables):
    found = train.evaluate(OBJECTIVE, variables, (X, LABELS))
    logits = np.asarray(MODEL.apply(*variables, X)[0], np.float64)
    each = -np.asarray(jax.nn.log_softmax(logits))[np.arange(23), LABELS]
    hits = (logits.argmax(-1) == LABELS).astype(float)
    for name, values in (("loss", each), ("accuracy", hits)):
        np.testing.assert_allclose(found[name].value, values.mean(), rtol=1e-5)
        np.testing.assert_allclose(found[name].stderr, values.std(ddof=1) / np.sqrt(23), rtol=1e-5)


def test_a_masked_mean_weighs_its_tokens_and_covers(variables):
    """Sequences of random length: the weighted mean and its ratio error, over 200 data sets."""

    def apply(params, state, x, key=None):
        return x * params, state

    model = nn.Model(lambda key, x: nn.Variables(jnp.ones(()), {}), apply)

    def masked_square(z, mask):
        return losses.Mean((mask * z**2).sum(), mask.sum())

    objective = train.supervised(model, masked_square)

    @jax.vmap
    def one(key):
        key_x, key_length = jax.random.split(key)
        length = jax.random.randint(key_length, (40, 1), 1, 9)
        mask = (jnp.arange(8)[None] < length).astype(jnp.float32)
        x = jax.random.normal(key_x, (40, 8)) * jnp.sqrt(length / 4.0)  # longer ones are larger
        return train.evaluate(objective, (jnp.ones(()), {}), (x, mask))["loss"]

    found = one(jax.random.split(jax.random.key(0), 200))
    lengths = np.arange(1, 9)
    truth = (lengths**2 / 4).sum() / lengths.sum()
    covered = np.abs(found.value - truth) <= 2.02 * found.stderr  # t of 39 degrees, 95 %
    assert covered.mean() >= 0.9


def test_training_noise_is_off_and_one_compilation_serves_all_states():
    traces = []

    def apply(params, state, x, key=None):
        traces.append(1)
        assert key is None
        return x * params, state

    model = nn.Model(lambda key, x: nn.Variables(jnp.ones(()), {}), apply)
    objective = train.supervised(model, losses.squared_error)
    for scale in (1.0, 2.0, 3.0):
        train.evaluate(objective, (jnp.asarray(scale), {}), (X[:, 0], X[:, 1]))
    assert len(traces) == 2  # once for single examples, and once for the check of a few together


@pytest.mark.parametrize("size", [1, 7, 23, 512])
def test_predictions_come_in_order_whatever_the_size(variables, size):
    found = train.predict(MODEL, variables, X, size=size)
    np.testing.assert_allclose(found, MODEL.apply(*variables, X)[0], rtol=1e-5, atol=1e-6)


def test_one_example_alone_has_no_standard_error(variables):
    found = train.evaluate(OBJECTIVE, variables, (X[:1], LABELS[:1]))
    assert jnp.isnan(found["loss"].stderr)
    assert jnp.isfinite(found["loss"].value)
