"""Transformations in any order that makes sense: one form of run, one trace, the same bits."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax.sharding import AxisType, PartitionSpec

import cases
from funcdl import data, losses, nn, train

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(24, 4)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, size=24))
MESH = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dropout(0.2, deterministic=not train)(jnp.tanh(linen.Dense(5)(x)))
        return linen.Dense(3)(x)


PLAIN = train.supervised(
    nn.from_linen(Net()), losses.softmax_cross_entropy, {"accuracy": losses.accuracy}
)


def noisy(key, batch):
    return batch[0] + 0.1 * jax.random.normal(key, batch[0].shape), batch[1]


OBJECTIVES = {
    "plain": lambda objective: objective,
    "mixed_precision": train.mixed_precision,
    "rematerialized": lambda objective: train.rematerialized(objective, segments=2),
    "augmented": lambda objective: train.augmented(objective, noisy),
}
GRADIENTS = {
    "gradient": train.gradient,
    "accumulated": train.accumulated(2),
    "clipped": train.clipped(1.0, 0.1),
}
PROGRAMS = {
    "averaged": train.averaged,
    "recorded": lambda p: train.recorded(p, train.noise_probe(PLAIN), every=2),
    "ensemble": lambda p: train.ensemble(p, 2),
    "sweep": lambda p: train.sweep(p, rate=[0.1, 0.2]),
    "sharded": lambda p: train.sharded(p, MESH, {"**/kernel": PartitionSpec("data")}),
}
LANES = "ensemble", "sweep"


def optimizer(hyper):
    labels = {"**/bias": optax.sgd(hyper["rate"]), "**": optax.adam(hyper["rate"])}
    return train.partition(labels)


def form(program) -> None:
    """A step returns the run it got, as far as shapes tell."""
    batches = data.Batches((X, Y), 8)
    make = lambda key: program.init(key, batches.form, {"rate": 0.1})
    run = jax.eval_shape(make, jax.random.key(0))
    after, metrics = jax.eval_shape(program.step, run, batches.form)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, run)
    assert {"loss", "accuracy"} <= set(metrics)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("outer", OBJECTIVES)
@pytest.mark.parametrize("inner", OBJECTIVES)
def test_objectives_and_gradients_compose(inner, outer, gradient):
    objective = OBJECTIVES[outer](OBJECTIVES[inner](PLAIN))
    form(train.program(objective, optimizer, GRADIENTS[gradient]))


@pytest.mark.parametrize(("inner", "outer"), list(itertools.permutations(PROGRAMS, 2)), ids=str)
def test_programs_compose(inner, outer):
    program = PROGRAMS[outer](PROGRAMS[inner](train.program(PLAIN, optimizer)))
    if outer == "recorded" and inner in LANES:
        with pytest.raises(ValueError, match="record its members"):
            form(program)
    else:
        form(program)


def stack():
    """Every transformation at once."""
    objective = OBJECTIVES["augmented"](PLAIN)
    for name in ("mixed_precision", "rematerialized"):
        objective = OBJECTIVES[name](objective)
    program = train.program(objective, optimizer, GRADIENTS["accumulated"])
    for name in ("recorded", "averaged", "sweep", "sharded"):
        program = PROGRAMS[name](program)
    return program


@pytest.fixture(scope="module")
def whole():
    program, batches = stack(), data.Batches((X, Y), 8, key=jax.random.key(3))
    run = program.init(jax.random.key(0), batches.form)
    return program, batches, run, train.fit(program, run, batches, steps=20, chunk=7)


def same_bits(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_a_whole_stack_resumes_to_the_same_bits(whole, tmp_path):
    program, batches, run, (straight, _) = whole
    half, _ = train.fit(program, run, batches, steps=11, chunk=7)
    train.save(tmp_path, half)
    restored = train.restore(tmp_path, run)
    again, _ = train.fit(program, restored, batches, steps=20, chunk=7)
    same_bits(again, straight)


@pytest.mark.parametrize("chunk", cases.often([1, 77], [77]))
def test_chunks_of_a_whole_stack_change_no_bit(whole, chunk):
    program, batches, run, (straight, history) = whole
    again, found = train.fit(program, run, batches, steps=20, chunk=chunk)
    same_bits(again, straight)
    np.testing.assert_array_equal(found.metrics["loss"], history.metrics["loss"])
