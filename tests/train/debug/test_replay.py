"""A step taken again is the same step, to the byte; what is not repeatable is found out."""

import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from funcdl import data, losses, nn, train

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int32)


class Net(linen.Module):
    """Batch norm and dropout, and at one input an overflow in the middle layer."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(6)(x))
        x = linen.Dropout(0.3, deterministic=not train)(linen.relu(x))
        with jax.named_scope("overflow"):
            x = x + jnp.exp(x.sum(axis=-1, keepdims=True) * 0)
        return linen.Dense(2)(x)


OBJECTIVE = train.supervised(nn.from_linen(Net()), losses.softmax_cross_entropy)
PROGRAM = train.program(OBJECTIVE, optax.adam(1e-2))
BATCHES = data.Batches((X, LABELS), 8, key=jax.random.key(1))
HOST = [jax.tree.map(np.asarray, BATCHES.at(step)) for step in range(40)]
FORM = jax.eval_shape(PROGRAM.init, jax.random.key(0), BATCHES.form)


def start():
    return PROGRAM.init(jax.random.key(0), BATCHES.form)


def stream():
    return data.Stream(lambda step: iter(HOST[step:]))


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save = train.checkpoint(folder, every=10, keep=None)
    run, history = train.fit(PROGRAM, start(), BATCHES, steps=30, chunk=10, callbacks=[save])
    return folder, run, history


def again(folder, step, source=BATCHES, chunk=10):
    return train.replay(folder, PROGRAM, source, like=FORM, step=step, chunk=chunk)


@pytest.mark.parametrize(("step", "source"), [(20, BATCHES), (17, BATCHES), (17, stream())])
def test_a_step_is_taken_again_with_the_same_bits(saved, step, source):
    folder, _, history = saved
    found = again(folder, step, source)
    straight, _ = train.fit(PROGRAM, start(), BATCHES, steps=step - 1, chunk=10)
    same(found.before, straight)
    same(found.batch, BATCHES.at(step - 1))
    same(found.metrics["loss"], history.metrics["loss"][step - 1])
    same(found.after, train.fit(PROGRAM, start(), BATCHES, steps=step, chunk=10)[0])


def test_a_damaged_checkpoint_is_passed_over(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved[0], folder)
    (folder / "20" / "manifest.json").write_text("{}")
    found = again(folder, 23)
    same(found.before, again(saved[0], 23).before)
    (folder / "10" / "manifest.json").write_text("{}")
    with pytest.raises(train.CheckpointError, match=r"(?s)no intact checkpoint.*/20.*/10"):
        again(folder, 23)
    with pytest.raises(FileNotFoundError, match=r"up to step 4: .*10, 20, 30"):
        again(folder, 5)


def test_the_step_that_breaks_is_replayed_for_jaxs_own_debugger_and_diagnosed(tmp_path):
    """The whole way: training fails, the step is replayed, and the line is named."""

    def loss(w, x):
        with jax.named_scope("middle"):
            return jnp.log(w - 0.1 * x.mean() ** 2)

    task = train.objective(lambda key, x: jnp.asarray(0.45), loss)
    program = train.flight_recorder(train.program(task, optax.sgd(0.1)))
    batches = data.Batches(np.ones((8, 1), np.float32), 4)
    run = program.init(jax.random.key(0), batches.form)
    save = train.checkpoint(tmp_path, every=1)
    with pytest.raises(train.NonFiniteError) as failed:
        train.fit(program, run, batches, steps=20, chunk=2, callbacks=[save])
    broken = failed.value.flight.broken
    found = train.replay(tmp_path, program, batches, like=run, step=broken, chunk=2)
    assert int(found.before.step) == broken - 1
    assert np.isfinite(found.before.params)
    assert np.isnan(found.metrics["loss"])
    assert int(found.after.step) == broken
    origin = train.diagnose(program, found.before, found.batch)
    assert (origin.operation, origin.layer) == ("log", "middle")
    assert origin.place.startswith(__file__)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        program.step(found.before, found.batch)


@pytest.mark.parametrize("source", [BATCHES, stream()])
def test_what_can_be_repeated_passes(source):
    run, _ = train.fit(PROGRAM, start(), BATCHES, steps=3)
    train.assert_deterministic(PROGRAM, run, source, steps=12)


def drifting(params=None):
    """A stream that gives other batches in every pass."""
    passes = itertools.count()
    return data.Stream(lambda step: iter([(x + next(passes), y) for x, y in HOST][step:]))


def test_what_cannot_be_repeated_is_named_by_its_first_path():
    with pytest.raises(AssertionError, match=r"steps 1 to 6, repeated.*'metrics/loss'.* of 6 "):
        train.assert_deterministic(PROGRAM, start(), drifting(), steps=6)
    draws = np.random.default_rng(0)

    def noise(x):
        return jax.pure_callback(lambda: np.float32(draws.normal()), jax.ShapeDtypeStruct((), "f4"))

    task = train.objective(
        lambda key, x: {"w": jnp.ones(())}, lambda p, x: p["w"] * 1.0 + 0 * noise(x)
    )
    hidden = train.program(task, optax.sgd(0.1))

    def step(run, batch):
        new, metrics = hidden.step(run, batch)
        return new._replace(state={"n": noise(batch)}), metrics

    def init(key, batch, hyper=None):
        return hidden.init(key, batch, hyper)._replace(state={"n": jnp.ones(())})

    outside = train.Program(init, step)
    run = init(jax.random.key(0), BATCHES.form)
    with pytest.raises(AssertionError, match="different 'run/state/n': 1 of 1 differ, by"):
        train.assert_deterministic(outside, run, BATCHES, steps=5)
