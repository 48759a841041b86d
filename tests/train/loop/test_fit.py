"""One compilation for a whole training; any number of steps; the same command resumes."""

import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from funcdl import data, losses, nn, train

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 0)


class Net(linen.Module):
    """Batch norm and dropout: everything that a resume can get wrong."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(8)(x))
        x = linen.Dropout(0.3, deterministic=not train)(linen.relu(x))
        return linen.Dense(3)(x)


def make(metrics=True):
    named = {"accuracy": losses.accuracy} if metrics else {}
    objective = train.supervised(nn.from_linen(Net()), losses.softmax_cross_entropy, named)
    return objective, train.program(objective, optax.adam(1e-2))


@pytest.fixture
def interruptible():
    """Let Ctrl-C raise, also in a job of the background, which inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


OBJECTIVE, PROGRAM = make()
AT = jax.jit(data.Batches.at)
BATCHES = data.Batches((X, LABELS), 16, key=jax.random.key(1))


@pytest.fixture(scope="module")
def straight():
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    return train.fit(PROGRAM, run, BATCHES, steps=77, chunk=20)


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_the_whole_fit_is_one_trace_whatever_the_number_of_steps():
    traces = []

    def loss(params, batch):
        traces.append(1)
        return losses.squared_error(batch @ params, jnp.zeros(len(batch)))

    program = train.program(train.objective(lambda key, batch: jnp.ones(4), loss), optax.sgd(0.1))
    batches = data.Batches(X, 16)
    run = program.init(jax.random.key(0), batches.at(0))
    run, _ = train.fit(program, run, batches, steps=23, chunk=5)
    run, _ = train.fit(program, run, batches, steps=41, chunk=5)
    assert len(traces) == 1
    assert run.step == 41


def test_it_is_the_loop_of_steps(straight):
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    step = jax.jit(PROGRAM.step)
    losses_by_hand = []
    for i in range(77):
        run, metrics = step(run, AT(BATCHES, i))
        losses_by_hand.append(metrics["loss"])
    fitted, history = straight
    np.testing.assert_allclose(history.metrics["loss"], losses_by_hand, rtol=1e-4)
    assert history.steps.tolist() == list(range(1, 78))
    np.testing.assert_allclose(
        fitted.params["Dense_1"]["kernel"], run.params["Dense_1"]["kernel"], atol=1e-4
    )


@pytest.mark.parametrize("stop", [41, 60])
def test_a_resumed_run_is_the_straight_one_bit_for_bit(straight, tmp_path, stop):
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    run, _ = train.fit(PROGRAM, run, BATCHES, steps=stop, chunk=20)
    train.save(tmp_path, run)
    form = jax.eval_shape(PROGRAM.init, jax.random.key(0), BATCHES.at(0))
    run, history = train.fit(PROGRAM, train.restore(tmp_path, form), BATCHES, steps=77, chunk=20)
    same(run, straight[0])
    np.testing.assert_array_equal(history.metrics["loss"], straight[1].metrics["loss"][stop:])


def test_another_chunk_gives_the_same_bits(straight):
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    same(train.fit(PROGRAM, run, BATCHES, steps=77, chunk=77)[0], straight[0])


def test_the_callers_run_stays_alive_and_each_callback_sees_a_valid_one():
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    kept = []
    callback = lambda run, metrics: kept.append((train.snapshot(run), metrics))
    train.fit(PROGRAM, run, BATCHES, steps=40, chunk=20, callbacks=[callback])
    assert run.step == 0
    assert jnp.isfinite(run.params["Dense_0"]["kernel"]).all()
    assert [int(r.step) for r, _ in kept] == [20, 40]
    assert all(jnp.isfinite(r.params["Dense_0"]["kernel"]).all() for r, _ in kept)
    assert {"loss", "accuracy", "step", "seconds", "compile_seconds"} <= set(kept[0][1])


def test_validation_enters_the_history_and_stops_early():
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    validate = lambda run: train.evaluate(OBJECTIVE, run.variables, BATCHES)
    rising = iter(range(100))
    stop = train.early_stop("validation/rising", patience=2)
    both = lambda run: validate(run) | {"rising": next(rising)}
    run, history = train.fit(
        PROGRAM, run, BATCHES, steps=200, chunk=20, validate=both, callbacks=[stop]
    )
    assert run.step == 60
    assert [step for step, _ in history.validation] == [20, 40, 60]
    assert set(history.validation[0][1]) == {"loss", "accuracy", "rising"}
    assert len(history.metrics["loss"]) == 60


def test_a_stream_of_the_same_batches_gives_the_same_bits(straight):
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    stream = (jax.tree.map(np.asarray, AT(BATCHES, i)) for i in range(100))
    run, history = train.fit(PROGRAM, run, stream, steps=77, chunk=20)
    same(run, straight[0])
    assert len(history.steps) == 77


def test_a_stream_that_cannot_seek_does_not_resume(straight):
    with pytest.raises(ValueError, match=r"resumes at step 77, but the stream .* no seek"):
        train.fit(PROGRAM, straight[0], iter([]), steps=80)


def test_a_stream_that_ends_too_early_says_at_which_step():
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    stream = (AT(BATCHES, i) for i in range(7))
    with pytest.raises(ValueError, match="ended at step 7"):
        train.fit(PROGRAM, run, stream, steps=10, chunk=5)


def test_ctrl_c_waits_for_the_border_and_loses_nothing(interruptible):
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    press = lambda run, metrics: os.kill(os.getpid(), signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train.fit(PROGRAM, run, BATCHES, steps=60, chunk=20, callbacks=[press])
    assert stopped.value.run.step == 20
    assert len(stopped.value.history.steps) == 20
    assert signal.getsignal(signal.SIGINT) is before


def press_after(*seconds):
    """Press Ctrl-C in a thread."""

    def press():
        for wait in seconds:
            time.sleep(wait)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def sleeping(seconds):
    """A program whose steps take a while."""

    def sleep(x):
        time.sleep(seconds)
        return x

    def loss(w, x):
        y = jax.pure_callback(
            sleep, jax.ShapeDtypeStruct((), x.dtype), jax.lax.stop_gradient(x.sum())
        )
        return jnp.mean((x @ w) ** 2) + 0 * jax.lax.stop_gradient(y)

    task = train.objective(lambda key, batch: jnp.ones(4), loss)
    return train.program(task, optax.sgd(0.1))


def test_ctrl_c_stops_within_a_chunk_and_loses_no_step(interruptible, capfd):
    program, batches = sleeping(0.02), data.Batches(X, 16)
    run = program.init(jax.random.key(0), batches.form)
    thread = press_after(0.8)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as stopped:
        train.fit(program, run, batches, steps=1000, chunk=1000)
    assert time.monotonic() - begin < 10  # of the 20 seconds that the chunk takes
    thread.join()
    step = int(stopped.value.run.step)
    assert 0 < step < 500
    assert len(stopped.value.history.steps) == step
    assert capfd.readouterr().err.count("stopping after this chunk") == 1


def test_the_second_ctrl_c_interrupts_at_once(interruptible):
    """The device goes on with its piece, but nobody waits for it."""

    def loss(w, x):
        matrix = jnp.full((256, 256), 1e-3) * jax.lax.stop_gradient(w[0])
        long = jax.lax.fori_loop(0, 3000, lambda i, a: jnp.tanh(a @ matrix), matrix)
        return jnp.mean((x @ w) ** 2) + 0 * jax.lax.stop_gradient(long.sum())

    program = train.program(train.objective(lambda key, x: jnp.ones(4), loss), optax.sgd(0.1))
    batches = data.Batches(X, 16)
    run = program.init(jax.random.key(0), batches.form)
    train.fit(program, run, batches, steps=1, chunk=2)  # compiled; a step takes over a second
    thread = press_after(0.3, 0.1)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as stopped:
        train.fit(program, run, batches, steps=4, chunk=2)
    assert time.monotonic() - begin < 0.8
    thread.join()
    assert len(stopped.value.history.steps) == 0
    assert not hasattr(stopped.value, "run")  # its buffers were donated to the step


def test_ctrl_c_during_the_compilation_keeps_the_run(interruptible):
    """The signal arrives while the step is traced, before any step is taken."""
    pressed = []

    def loss(w, x):
        if not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))
        return jnp.mean((x @ w) ** 2)

    program = train.program(train.objective(lambda key, x: jnp.ones(4), loss), optax.sgd(0.1))
    batches = data.Batches(X, 16)
    run = program.init(jax.random.key(0), batches.form)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train.fit(program, run, batches, steps=9)
    same(stopped.value.run, run)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, "own"])
def test_a_signal_that_is_ignored_or_handled_by_the_user_is_left_to_them(handler):
    seen = []
    chosen = (lambda number, frame: seen.append(number)) if handler == "own" else handler
    before = signal.signal(signal.SIGTERM, chosen)
    try:
        run = PROGRAM.init(jax.random.key(0), BATCHES.form)
        press = lambda run, metrics: os.kill(os.getpid(), signal.SIGTERM)
        run, _ = train.fit(PROGRAM, run, BATCHES, steps=60, chunk=20, callbacks=[press])
        assert run.step == 60
        assert len(seen) == (3 if handler == "own" else 0)
        assert signal.getsignal(signal.SIGTERM) is chosen
    finally:
        signal.signal(signal.SIGTERM, before)


def counted(change):
    """A program of one's own, whose step changes the run in addition."""

    def step(run, x):
        loss, grad = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(run.params)
        return change(run._replace(params=run.params - 0.1 * grad)), {"loss": loss}

    def init(key, x, hyper=None):
        return train.Run(jnp.ones(4), {}, (), {}, jnp.int32(0), key)

    return train.Program(init, step)


MISCOUNTS = {
    "forgets": lambda run: run,
    "by two": lambda run: run._replace(step=run.step + 2),
    "starts again": lambda run: run._replace(step=(run.step + 1) % 3),
}


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("name", MISCOUNTS)
def test_a_program_that_does_not_count_its_steps_is_rejected(name, chunk):
    program = counted(MISCOUNTS[name])
    batches = data.Batches(X, 16)
    run = program.init(jax.random.key(0), batches.form)
    with pytest.raises(ValueError, match=r"program.step returned a run at step .*step \+ 1"):
        train.fit(program, run, batches, steps=8, chunk=chunk)
    sound = counted(lambda run: run._replace(step=run.step + 1))
    run, _ = train.fit(sound, run, batches, steps=8, chunk=chunk)
    assert run.step == 8


def test_estimates_keep_their_errors_in_the_history_and_in_the_metrics():
    run, seen = PROGRAM.init(jax.random.key(0), BATCHES.form), []
    validate = lambda run: train.evaluate(OBJECTIVE, run.variables, BATCHES)
    note = lambda run, metrics: seen.append(metrics)
    run, history = train.fit(
        PROGRAM, run, BATCHES, steps=20, chunk=20, validate=validate, callbacks=[note]
    )
    expected, (step, found) = validate(run), history.validation[0]
    assert step == 20
    for name, estimate in expected.items():
        np.testing.assert_allclose(found[name].stderr, estimate.stderr, rtol=1e-6)
        np.testing.assert_allclose(seen[0][f"validation/{name}"], estimate.value, rtol=1e-6)
        np.testing.assert_allclose(seen[0][f"validation/{name}_stderr"], estimate.stderr, rtol=1e-6)


def test_a_callback_that_fails_leaves_the_run_and_the_step(straight):
    def fail(run, metrics):
        raise RuntimeError("disk is gone")

    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    with pytest.raises(RuntimeError, match="disk is gone") as failed:
        train.fit(PROGRAM, run, BATCHES, steps=60, chunk=20, callbacks=[fail])
    assert failed.value.run.step == 20
    assert "step 20" in "".join(failed.value.__notes__)


def test_a_loss_that_is_not_finite_is_named_by_its_step():
    def loss(params, batch):
        return jnp.mean(jnp.log(params)) + 0 * batch.sum()

    task = train.objective(lambda key, batch: jnp.full(2, 0.35), loss)
    program = train.program(task, optax.sgd(0.1))
    batches = data.Batches(X, 16)
    run = program.init(jax.random.key(0), batches.at(0))
    _, metrics = jax.lax.scan(lambda r, i: program.step(r, batches.at(i)), run, jnp.arange(20))
    first = int(np.argmin(np.isfinite(metrics["loss"]))) + 1
    with pytest.raises(train.NonFiniteError, match=f"at step {first};"):
        train.fit(program, run, batches, steps=20, chunk=20)


def test_an_ensemble_trains_in_one_program_and_keeps_a_lane_axis():
    many = train.ensemble(PROGRAM, 3)
    runs = many.init(jax.random.key(0), BATCHES.at(0))
    runs, history = train.fit(many, runs, BATCHES, steps=30, chunk=20)
    assert history.metrics["loss"].shape == (30, 3)
    lane = train.lane(runs, 2)
    result = train.evaluate(OBJECTIVE, lane.variables, BATCHES)
    assert 0 <= result["accuracy"].value <= 1


def test_metrics_file_has_a_line_a_chunk(tmp_path):
    import json

    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    log = tmp_path / "deep" / "metrics.jsonl"
    train.fit(PROGRAM, run, BATCHES, steps=40, chunk=20, callbacks=[train.metrics_file(log)])
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40]
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_progress_writes_a_line_each_tenth_without_a_terminal(capsys):
    pytest.importorskip("rich")
    run = PROGRAM.init(jax.random.key(0), BATCHES.at(0))
    train.fit(PROGRAM, run, BATCHES, steps=40, chunk=20, callbacks=[train.progress(40)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "40/40" in lines[-1]
    assert "ms/step" in lines[-1]


class ConvNet(linen.Module):
    conv: type

    @linen.compact
    def __call__(self, x):
        x = self.conv(2, (3, 3))(x.reshape(-1, 2, 2, 1))
        return linen.Dense(3)(x.reshape(x.shape[0], -1))


def fit_convolution(conv, chunk):
    objective = train.supervised(nn.from_linen(ConvNet(conv)), losses.softmax_cross_entropy)
    program = train.program(objective, optax.sgd(0.1))
    run = program.init(jax.random.key(0), BATCHES.form)
    return train.fit(program, run, BATCHES, steps=6, chunk=chunk)


def test_xlas_convolution_in_a_loop_is_warned_of_on_a_cpu_and_ours_is_not():
    with pytest.warns(UserWarning, match=r"Conv_0.*funcdl\.nn\.Conv.*chunk=1"):
        run, history = fit_convolution(linen.Conv, chunk=3)
    singly, log = fit_convolution(linen.Conv, chunk=1)  # warnings are errors here
    np.testing.assert_allclose(log.metrics["loss"], history.metrics["loss"], rtol=1e-5)
    assert singly.step == run.step == 6
    _, ours = fit_convolution(nn.Conv, chunk=3)
    np.testing.assert_allclose(ours.metrics["loss"], history.metrics["loss"], rtol=1e-4)


def test_callbacks_of_a_generator_are_called_at_every_border():
    seen = []
    run = PROGRAM.init(jax.random.key(0), BATCHES.form)
    note = lambda run, metrics: seen.append(metrics["step"])
    train.fit(PROGRAM, run, BATCHES, steps=60, chunk=20, callbacks=(f for f in [note]))
    assert seen == [20, 40, 60]


@pytest.mark.parametrize("chunk", [1, 4])
def test_parameters_that_are_not_finite_reach_no_callback(chunk):
    saved = []
    task = train.objective(lambda key, batch: jnp.ones(2), lambda p, x: jnp.mean((x @ p) ** 2))
    program = train.program(task, optax.sgd(1e38))
    batches = data.Batches(X[:, :2], 16)
    run = program.init(jax.random.key(0), batches.form)
    keep = lambda run, metrics: saved.append(bool(jnp.isfinite(run.params).all()))
    with pytest.raises(train.NonFiniteError, match=r"not finite|loss is") as stopped:
        train.fit(program, run, batches, steps=8, chunk=chunk, callbacks=[keep])
    assert all(saved)
    assert not hasattr(stopped.value, "run")
    assert stopped.value.step <= len(stopped.value.history.steps)


def test_a_lane_that_diverges_hides_no_other():
    task = train.objective(lambda key, batch: jnp.ones(2), lambda p, x: jnp.mean((x @ p) ** 2))
    program = train.program(task, optax.sgd(0.1))
    batches = data.Batches(X[:, :2], 16)
    many = train.ensemble(program, 3)
    runs = many.init(jax.random.key(0), batches.form)
    runs = runs._replace(params=runs.params.at[1].set(jnp.nan))
    seen = []
    note = lambda run, metrics: seen.append(metrics["loss"])
    _, history = train.fit(many, runs, batches, steps=4, chunk=4, callbacks=[note])
    assert np.isnan(history.metrics["loss"]).any(axis=0).tolist() == [False, True, False]
    np.testing.assert_allclose(seen, history.metrics["loss"][:, [0, 2]].mean(), rtol=1e-6)


def test_lanes_with_hyper_parameters_are_recognized():
    task = train.objective(lambda key, batch: jnp.ones(2), lambda p, x: jnp.mean((x @ p) ** 2))
    program = train.ensemble(train.program(task, lambda hyper: optax.sgd(hyper["rate"])), 2)
    batches = data.Batches(X[:, :2], 16)
    run = program.init(jax.random.key(0), batches.form, {"rate": 0.1})
    run = run._replace(hyper={"rate": jnp.asarray([0.0, 0.1])})
    run, _ = train.fit(program, run, batches, steps=2)
    np.testing.assert_array_equal(run.params[0], 1)
    assert (run.params[1] != 1).all()


def test_a_data_set_is_not_taken_for_a_stream():
    run = PROGRAM.init(jax.random.key(0), BATCHES.form)
    with pytest.raises(TypeError, match=r"one data set.*data\.Batches"):
        train.fit(PROGRAM, run, (X, LABELS), steps=3)
