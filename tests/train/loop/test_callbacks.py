"""Callbacks look where they want, begin anew with each run, and write what others can read."""

import json
import os
import signal
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import data, train


def scalars(path):
    """The scalars of an event file: each record is length, its checksum, data, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    raw, at, found = path.read_bytes(), 0, {}
    while at < len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        event = Event.FromString(raw[at + 12 : at + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        at += 16 + length
    return found


def test_tensorboard_reads_losses_and_validation_by_the_steps_of_the_optimizer(tmp_path):
    line = train.objective(lambda key, x: jnp.ones(2), lambda w, x: ((x @ w) ** 2).mean())
    sgd = train.program(line, optax.sgd(0.1))
    batches = data.Batches(np.eye(2, dtype=np.float32), 2)
    callback = train.tensorboard(tmp_path / "events")
    assert not (tmp_path / "events").exists()
    _, history = train.fit(
        sgd,
        sgd.init(jax.random.key(0), batches.form),
        batches,
        steps=5,
        chunk=2,
        validate=lambda run: {"accuracy": run.step / 10},
        callbacks=[callback],
    )
    del callback  # which closes the file
    (path,) = (tmp_path / "events").iterdir()
    found = scalars(path)
    assert set(found) == {"train/loss", "validation/accuracy"}
    loss = history.metrics["loss"]
    means = [loss[:2].mean(), loss[2:4].mean(), loss[4]]
    assert [step for step, _ in found["train/loss"]] == [2, 4, 5]
    np.testing.assert_allclose([x for _, x in found["train/loss"]], means, rtol=1e-6)
    np.testing.assert_allclose(found["validation/accuracy"], [(2, 0.2), (4, 0.4), (5, 0.5)])


def test_without_tensorboardx_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(ImportError, match=r'pip install "funcdl\[tracking\]"'):
        train.tensorboard(tmp_path)


X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
BATCHES = data.Batches(X, 8, key=jax.random.key(1))
LINE = train.objective(lambda key, x: jnp.ones(2), lambda w, x: ((x @ w - 1) ** 2).mean())
PROGRAM = train.program(LINE, optax.adam(0.05))


def start(seed=0):
    return PROGRAM.init(jax.random.key(seed), BATCHES.form)


def fit(*callbacks, run=None, **options):
    return train.fit(PROGRAM, run or start(), BATCHES, callbacks=callbacks, **options)


def saved(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def words(run):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(run._replace(key=run.step))]


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        (10, 25, [10, 20, 25]),
        (10, 9, [9]),
        (10, 20, [10, 20]),
        (3, 10, [3, 6, 9, 10]),
        (50, 50, [50]),
    ],
)
def test_a_run_is_saved_every_so_many_steps_and_at_its_end_whatever_the_chunk(
    tmp_path, every, steps, expected, chunk
):
    run, _ = fit(train.checkpoint(tmp_path, every=every, keep=None), steps=steps, chunk=chunk)
    assert saved(tmp_path) == expected
    assert words(train.restore(tmp_path, start())) == words(run)


def fail(*_):
    raise RuntimeError("it failed")


def at(step, f):
    return lambda run, metrics: f() if metrics["step"] >= step else None


ENDS = {
    "stop": (lambda: {"callbacks": [at(6, lambda: train.STOP)]}, None),
    "early stop": (lambda: {"callbacks": [train.early_stop("loss", patience=1, mode="max")]}, None),
    "error": (lambda: {"callbacks": [at(6, fail)]}, RuntimeError),
    "validation": (lambda: {"validate": fail}, RuntimeError),
    "ctrl-c": (
        lambda: {"callbacks": [at(6, lambda: os.kill(os.getpid(), signal.SIGINT))]},
        KeyboardInterrupt,
    ),
    "sigterm": (
        lambda: {"callbacks": [at(6, lambda: os.kill(os.getpid(), signal.SIGTERM))]},
        SystemExit,
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_however_training_ends_the_last_run_is_saved(tmp_path, name, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    options, kind = ENDS[name]
    options = options()
    callbacks = [train.checkpoint(tmp_path, every=100, keep=None), *options.pop("callbacks", [])]
    try:
        if kind is None:
            run, _ = fit(*callbacks, steps=30, chunk=3, **options)
        else:
            with pytest.raises(kind) as stopped:
                fit(*callbacks, steps=30, chunk=3, **options)
            run = stopped.value.run
            assert len(stopped.value.history.steps) == int(run.step)
    finally:
        signal.signal(signal.SIGINT, before)
    assert name != "sigterm" or stopped.value.code == 143
    assert saved(tmp_path) == [int(run.step)]
    assert 0 < run.step < 30
    assert words(train.restore(tmp_path, start())) == words(run)
    resumed, _ = fit(train.checkpoint(tmp_path, every=100), run=run, steps=30, chunk=3)
    assert words(resumed) == words(fit(steps=30, chunk=3)[0])


def test_a_stream_that_fails_leaves_the_last_run_in_the_folder(tmp_path):
    def read(step):
        yield from (X[:8] for _ in range(step, 12))
        fail()

    saving = train.checkpoint(tmp_path, every=5, keep=None)
    with pytest.raises(RuntimeError):
        train.fit(PROGRAM, start(), data.Stream(read), steps=20, chunk=4, callbacks=[saving])
    assert saved(tmp_path) == [5, 10, 12]


def test_a_run_that_is_not_finite_is_not_saved_and_the_one_before_is_kept(tmp_path):
    program = train.program(
        train.objective(lambda key, x: jnp.asarray(0.45), lambda w, x: jnp.log(w) * x.mean() ** 0),
        optax.sgd(0.1),
    )
    run = program.init(jax.random.key(0), BATCHES.form)
    saving = train.checkpoint(tmp_path, every=1, keep=None)
    with pytest.raises(train.NonFiniteError) as failed:
        train.fit(program, run, BATCHES, steps=30, chunk=30, callbacks=[saving])
    assert saved(tmp_path) == list(range(1, failed.value.step))
    assert len(failed.value.history.metrics["loss"]) == failed.value.step


def test_a_folder_that_holds_another_run_is_rejected_before_a_step(tmp_path):
    fit(train.checkpoint(tmp_path, every=100), steps=200)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    log = tmp_path.parent / "log.jsonl"
    cases = {
        "another seed": (start(1), PROGRAM, "another run.key"),
        "from the start again": (
            start(0),
            PROGRAM,
            r"steps \[100, 200\], but this run is at step 0",
        ),
        "another program": (None, train.program(LINE, optax.sgd(0.1)), "another run"),
    }
    for run, program, text in cases.values():
        run = run or program.init(jax.random.key(0), BATCHES.form)
        seen = []
        note = lambda run, metrics, seen=seen: seen.append(metrics)
        saving = train.checkpoint(tmp_path, every=30)
        with pytest.raises(train.CheckpointError, match=text):
            train.fit(
                program, run, BATCHES, steps=60, callbacks=[saving, note, train.metrics_file(log)]
            )
        assert not seen
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    with pytest.raises(train.CheckpointError, match=r"another run\.key"):
        train.save(tmp_path, start(1), step=300)
    named = tmp_path.parent / "named"
    run, _ = fit(train.checkpoint(named, every=9, facts={"classes": ["a", "b"]}), steps=9)
    other = train.checkpoint(named, every=9, facts={"classes": ["b", "a"]})
    with pytest.raises(ValueError, match=r"another run \(classes"):
        fit(other, run=run, steps=300)
    assert not log.exists()


def test_a_run_goes_back_to_a_step_of_its_own_folder(tmp_path):
    straight, _ = fit(train.checkpoint(tmp_path, every=10, keep=None), steps=30)
    run = train.restore(tmp_path, start(), step=10)
    again, _ = fit(train.checkpoint(tmp_path, every=10, keep=None), run=run, steps=30)
    assert words(again) == words(straight)
    assert saved(tmp_path) == [10, 20, 30]


def test_one_folder_takes_one_training_at_a_time(tmp_path):
    def inner(run, metrics):
        fit(train.checkpoint(tmp_path, every=5), steps=5)

    with pytest.raises(train.CheckpointError, match="in use by another run of this process"):
        fit(train.checkpoint(tmp_path, every=5), inner, steps=5)
    fit(train.checkpoint(tmp_path, every=5), run=train.restore(tmp_path, start()), steps=9)
    assert not (tmp_path / ".lock").exists()


def test_a_read_only_folder_is_rejected_before_a_step(tmp_path, monkeypatch):
    seen = []
    (tmp_path / "file").write_text("")
    saving = train.checkpoint(tmp_path / "file" / "runs", every=5)
    with pytest.raises(OSError, match="file"):
        fit(saving, lambda *_: seen.append(1), steps=5)
    assert not seen


def test_a_disk_that_is_full_ends_the_training_and_keeps_the_older_steps(tmp_path, monkeypatch):
    from funcdl.train._checkpoints import step_folder

    write = step_folder._write

    def full(folder, arrays):
        if "20" in str(folder.parent.name):
            raise OSError(28, "No space left on device")
        write(folder, arrays)

    monkeypatch.setattr(step_folder, "_write", full)
    with pytest.raises(OSError, match=r"No space left.*older steps are intact") as failed:
        fit(train.checkpoint(tmp_path, every=10, keep=None), steps=30)
    assert saved(tmp_path) == [10]
    assert failed.value.run.step == 20
    assert any("failed at the end" in note for note in failed.value.__notes__)


def test_callbacks_begin_again_with_every_run(tmp_path):
    stop = train.early_stop("loss", patience=2, mode="max")
    saving = {seed: train.checkpoint(tmp_path / str(seed), every=100) for seed in range(3)}
    log = train.metrics_file(tmp_path / "log.jsonl")
    ends = []
    for seed in range(3):
        run, _ = fit(stop, log, saving[seed], run=start(seed), steps=60, chunk=3)
        ends.append(int(run.step))
    alone = [
        int(
            fit(train.early_stop("loss", patience=2, mode="max"), run=start(s), steps=60, chunk=3)[
                0
            ].step
        )
        for s in range(3)
    ]
    assert ends == alone
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(3, ends[-1] + 1, 3))
    same = train.checkpoint(tmp_path / "same", every=10, keep=None)
    run, _ = fit(same, steps=10)
    fit(same, run=run, steps=20)
    assert saved(tmp_path / "same") == [10, 20]


@pytest.mark.parametrize("interrupted", [6, 9, 12, 18])
def test_early_stopping_survives_a_resume(tmp_path, interrupted):
    """The metric falls, then rises; the run stops where it would have without the interruption."""
    values = [5.0, 4.0, 3.0, 3.5, 3.4, 3.3, 3.2, 3.1, 2.0]

    def validate(run):
        return {"score": values[int(run.step) // 3 - 1]}

    def callbacks():
        return train.early_stop("validation/score", patience=4), train.checkpoint(tmp_path, every=5)

    straight, _ = fit(
        train.early_stop("validation/score", patience=4), validate=validate, steps=27, chunk=3
    )
    assert straight.step == 21
    fit(*callbacks(), validate=validate, steps=interrupted, chunk=3)
    run = train.restore(tmp_path, start())
    run, _ = fit(*callbacks(), run=run, validate=validate, steps=27, chunk=3)
    assert run.step == 21
    stop = train.early_stop("validation/score", patience=4)  # the same object, two calls of fit
    run, _ = fit(stop, validate=validate, steps=12, chunk=3)
    run, _ = fit(stop, run=run, validate=validate, steps=27, chunk=3)
    assert run.step == 21


def test_a_metrics_file_is_json_and_no_step_is_in_it_twice(tmp_path):
    log = tmp_path / "log.jsonl"
    values = iter([float("nan"), float("inf"), 1.0, 2.0, 3.0, 4.0])
    validate = lambda run: {"odd": next(values)}
    refuse = lambda name: pytest.fail(f"{name} is not JSON")
    parse = lambda: [json.loads(x, parse_constant=refuse) for x in log.read_text().splitlines()]
    run, _ = fit(train.metrics_file(log), validate=validate, steps=5, chunk=5)
    fit(train.metrics_file(log), run=run, validate=validate, steps=15, chunk=5)
    assert [row["validation/odd"] for row in parse()] == [None, None, 1.0]
    log.write_text(log.read_text() + '{"step": 20, "loss"')  # cut off by a kill
    fit(train.metrics_file(log), run=run, validate=validate, steps=15, chunk=5)
    assert [row["step"] for row in parse()] == [5, 10, 15]
    assert [row["validation/odd"] for row in parse()] == [None, 2.0, 3.0]


def test_progress_counts_from_the_step_of_the_run(capsys):
    pytest.importorskip("rich")
    run, _ = fit(steps=36)
    times = []
    note = lambda run, metrics: times.append(1e3 * metrics["seconds"] / 4)
    fit(train.progress(40), note, run=run, steps=40, chunk=40)
    (line,) = capsys.readouterr().err.strip().splitlines()
    shown = float(line.split("ms/step")[0].split()[-1])
    np.testing.assert_allclose(shown, times[0], atol=0.006)


def test_a_callback_looks_where_it_wants_and_the_others_do_not_notice():
    class Watch:
        def __init__(self, period):
            self.period, self.seen = period, []

        def due(self, step):
            return (step // self.period + 1) * self.period

        def __call__(self, run, metrics):
            assert int(run.step) == metrics["step"]
            self.seen.append(metrics["step"])

    often, rarely, plain = Watch(3), Watch(8), []
    note = lambda run, metrics: plain.append((metrics["step"], metrics["loss"]))
    run, history = fit(often, note, rarely, steps=20, chunk=10)
    assert often.seen == [3, 6, 9, 12, 15, 18]
    assert rarely.seen == [8, 16]
    loss = history.metrics["loss"]
    assert [step for step, _ in plain] == [10, 20]
    np.testing.assert_allclose(
        [x for _, x in plain], [loss[:10].mean(), loss[10:].mean()], rtol=1e-6
    )
    assert words(run) == words(fit(steps=20, chunk=10)[0])


@pytest.mark.parametrize("name", ["end", *ENDS])
def test_the_bar_gives_the_cursor_back_however_training_ends(name, monkeypatch, capfd):
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    options, kind = ENDS.get(name, (dict, None))
    options = options()
    callbacks = [train.progress(12), *options.pop("callbacks", [])]
    try:
        if kind is None:
            fit(*callbacks, steps=12, chunk=3, **options)
        else:
            with pytest.raises(kind):
                fit(*callbacks, steps=12, chunk=3, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    text = capfd.readouterr().err
    hidden, shown = text.rfind("\x1b[?25l"), text.rfind("\x1b[?25h")
    assert shown > hidden or hidden == shown == -1
    assert name == "validation" or shown > 0  # it fails before the bar is shown
