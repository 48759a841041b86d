"""A label out of range is named: its value, the range, its place in the data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from funcdl import data, losses, nn, train

X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
NET = nn.from_linen(linen.Dense(3))
SEQUENCES = np.random.default_rng(1).normal(size=(8, 4, 2)).astype(np.float32)


def labels(value, at, dtype=np.int32, shape=(8,)):
    y = (np.arange(np.prod(shape)).reshape(shape) % 3).astype(dtype)
    y[at] = value
    return y


def of_optax(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def masked(batch):
    x, y = batch
    return x, y, np.ones(y.shape, np.float32)


class Embedding(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        return linen.Dense(3)(linen.Embed(5, 2)(tokens).mean(1))


# name: (loss, batch, the message)
CASES = {
    "negative": (
        losses.softmax_cross_entropy,
        (X, labels(-1, 5)),
        r"label -1 of example 5 at path '1', index \(5,\), .* 0 to 2, as there are 3 outputs",
    ),
    "the number of classes": (
        losses.softmax_cross_entropy,
        (X, labels(3, 2)),
        r"label 3 of example 2 at path '1', index \(2,\), .* 0 to 2",
    ),
    "255 in uint8": (
        losses.softmax_cross_entropy,
        (X, labels(255, 7, np.uint8)),
        r"label 255 of example 7 at path '1', .* 0 to 2",
    ),
    "sequences": (
        losses.softmax_cross_entropy,
        (SEQUENCES, labels(9, (6, 1), shape=(8, 4))),
        r"label 9 of example 6 at path '1', index \(6, 1\), .* 0 to 2",
    ),
    "masked": (
        losses.masked_softmax_cross_entropy,
        masked((SEQUENCES, labels(-100, (3, 2), shape=(8, 4)))),
        r"label -100 of example 3 at path '1', index \(3, 2\), .* 0 to 2",
    ),
    "counted from 1": (
        lambda logits, y: losses.softmax_cross_entropy(logits, y - 1),
        (X, labels(0, 4) + (np.arange(8) != 4)),
        r"label 0 of example 4 at path '1', index \(4,\)",
    ),
    "a loss of optax": (
        of_optax,
        (X, labels(3, 1)),
        r"label or index 3 of example 1 at path '1', index \(1,\), .* 0 to 2",
    ),
    "uint8 in a loss of optax": (
        of_optax,
        (X, labels(255, 6, np.uint8)),
        r"label or index 255 of example 6 at path '1', index \(6,\), .* 0 to 2",
    ),
}


def fitted(objective, batch, change=lambda program: program, size=8):
    program = change(train.program(objective, optax.sgd(0.1)))
    batches = data.Batches(batch, size)
    run = program.init(jax.random.key(0), batches.at(0))
    with pytest.raises(train.NonFiniteError) as caught:
        train.fit(program, run, batches, steps=8 // size, chunk=1)
    return caught


@pytest.mark.parametrize("name", CASES)
def test_fit_names_the_label(name):
    loss, batch, message = CASES[name]
    error = fitted(train.supervised(NET, loss), batch)
    assert error.value.step == 1
    error.match("^the loss is nan at step 1: the " + message)


@pytest.mark.parametrize("name", CASES)
def test_evaluate_names_the_label(name):
    loss, batch, message = CASES[name]
    objective = train.supervised(NET, loss)
    variables = objective.init(jax.random.key(0), jax.tree.map(lambda a: a[:1], batch))
    with pytest.raises(ValueError, match="^the " + message):
        train.evaluate(objective, variables, data.Batches(batch, 4))


def test_a_token_out_of_an_embedding_is_named_too():
    tokens = np.arange(32).reshape(8, 4) % 5
    tokens[3, 1] = 5
    objective = train.supervised(nn.from_linen(Embedding()), losses.softmax_cross_entropy)
    error = fitted(objective, (tokens.astype(np.int32), labels(1, 0)))
    error.match(r"label or index 5 of example 3 at path '0', index \(3, 1\), .* expected 0 to 4")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: train.ensemble(p, 2),
        lambda p: train.flight_recorder(p),
    ],
    ids=["ensemble", "flight recorder"],
)
def test_a_transform_of_the_program_hides_no_label(change):
    objective = train.supervised(NET, losses.softmax_cross_entropy)
    fitted(objective, (X, labels(7, 4)), change).match("label 7 of example 4 at path '1'")


def test_a_batch_in_parts_hides_no_label():
    program = train.program(
        train.supervised(NET, losses.softmax_cross_entropy),
        optax.sgd(0.1),
        train.accumulated(4),
    )
    run = program.init(jax.random.key(0), (X, labels(0, 0)))
    with pytest.raises(train.NonFiniteError, match="label 7 of example 5 at path '1'"):
        train.fit(program, run, data.Batches((X, labels(7, 5)), 8), steps=1)


def test_the_step_of_a_stream_and_of_a_long_chunk_is_searched():
    program = train.program(train.supervised(NET, losses.softmax_cross_entropy), optax.sgd(0.1))
    run = program.init(jax.random.key(0), (X[:2], labels(0, 0)[:2]))
    y = labels(4, 5)
    pairs = lambda: iter([(X[i : i + 2], y[i : i + 2]) for i in (0, 2, 4, 6)])
    for source in (data.Batches((X, y), 2), data.Stream(lambda step: pairs())):
        with pytest.raises(train.NonFiniteError, match="step 3: the label 4 of example 1 at"):
            train.fit(program, run, source, steps=4, chunk=4)


def test_sound_labels_are_not_blamed():
    objective = train.supervised(NET, lambda z, y: losses.softmax_cross_entropy(z, y) / 0.0)
    message = str(fitted(objective, (X, labels(0, 0))).value)
    assert "label" not in message
    assert "lower the learning rate" in message


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_the_dtype_of_the_labels_need_not_hold_the_number_of_classes(dtype):
    logits = jnp.zeros((2, 300))
    y = jnp.asarray([1, 100], dtype)
    assert jnp.allclose(jax.jit(losses.softmax_cross_entropy)(logits, y), np.log(300))
    assert jax.jit(losses.accuracy)(logits, y) == 0
