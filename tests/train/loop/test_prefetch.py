"""A stream is read one chunk ahead, in a thread that ends with the training; no bit changes."""

import itertools
import os
import signal
import threading
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import data, train

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
LINE = train.objective(lambda key, batch: jnp.ones(4), lambda w, x: ((x @ w - 1) ** 2).mean())
PROGRAM = train.program(LINE, optax.adam(1e-2))
BATCHES = data.Batches(X, 8, key=jax.random.key(1))
HOST = [np.asarray(BATCHES.at(step)) for step in range(60)]
RUN = PROGRAM.init(jax.random.key(0), BATCHES.form)


class Watched:
    """A stream with a log: what was read, in which thread."""

    def __init__(self, batches=HOST, wait=None):
        self.batches, self.wait = batches, wait or (lambda step: None)
        self.read, self.threads, self.start = [], set(), 0

    def seek(self, step):
        self.start = step

    def __iter__(self):
        for step in range(self.start, len(self.batches)):
            self.wait(step)
            self.read.append(step)
            self.threads.add(threading.current_thread().name)
            yield self.batches[step]


def fit(stream, run=RUN, steps=33, **settings):
    return train.fit(PROGRAM, run, stream, steps=steps, **({"chunk": 10} | settings))


@pytest.fixture(scope="module")
def resident():
    return fit(BATCHES)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    names = [thread.name for thread in threading.enumerate()]
    assert [name for name in names if name.startswith("funcdl")] == []


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("chunk", [1, 7, 10, 50])
def test_it_is_the_run_on_resident_data_bit_for_bit(resident, chunk):
    stream = Watched()
    run, history = fit(stream, chunk=chunk)
    if chunk > 1:  # one step alone is another program
        same(run, resident[0])
        np.testing.assert_array_equal(history.metrics["loss"], resident[1].metrics["loss"])
    assert stream.read == list(range(33))  # nothing past the last step
    assert stream.threads == {"funcdl-stream_0"}


def test_it_reads_one_chunk_ahead_and_no_more():
    stream, seen = Watched(), []

    def look(run, metrics):
        time.sleep(0.05)
        seen.append(len(stream.read))

    fit(stream, callbacks=[look])
    assert seen == [20, 30, 33, 33]


def test_reading_and_training_overlap():
    """The batch of the second chunk is waited for until the first chunk has been trained on."""
    trained = threading.Event()
    stream = Watched(wait=lambda step: step == 10 and trained.wait(20))
    fit(stream, callbacks=[lambda run, metrics: trained.set()])
    assert trained.is_set()


def test_nothing_is_read_where_nothing_is_to_do():
    stream = Watched()
    fit(stream, steps=0)
    assert stream.read == []


def grain_by_index():
    return data.from_grain(grain.MapDataset.source(X).seed(1).shuffle().repeat().batch(8))


def grain_batches():
    few = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    shuffled = grain.MapDataset.source(X).seed(1).shuffle().repeat().batch(8)
    return data.from_grain(shuffled.to_iter_dataset(few))


@pytest.mark.parametrize("make", [Watched, grain_by_index, grain_batches])
@pytest.mark.parametrize("stop", ["border", "early", "ctrl-c"])
def test_a_stopped_run_resumes_with_the_batch_that_comes_next(make, stop):
    straight = fit(make())
    stream = make()
    if stop == "border":
        run, history = fit(stream, steps=20)
    elif stop == "early":
        run, history = fit(stream, callbacks=[lambda run, metrics: train.STOP])
    else:
        press = lambda run, metrics: os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as stopped:
            fit(stream, callbacks=[press])
        run, history = stopped.value.run, stopped.value.history
    assert run.step == {"border": 20, "early": 10, "ctrl-c": 10}[stop]
    for again in (stream, make()):
        resumed, rest = fit(again, run=run)
        same(resumed, straight[0])
        losses = np.concatenate([history.metrics["loss"], rest.metrics["loss"]])
        np.testing.assert_array_equal(losses, straight[1].metrics["loss"])


def test_a_stream_that_seeks_starts_at_the_first_batch_for_a_fresh_run(resident):
    stream = Watched()
    stream.seek(7)
    same(fit(stream)[0], resident[0])


def failing(step):
    if step == 25:
        raise OSError("the disk is gone")


def broken(i, batch):
    return [*HOST[:i], batch, *HOST[i:]]


FAULTS = {
    "the reader fails": (Watched(wait=failing), OSError, "disk is gone.*batch of step 25"),
    "the end": (Watched(HOST[:25]), ValueError, "ended at step 25; expected 10 more from step 20"),
    "shape, in a chunk": (
        Watched(broken(25, HOST[0][:5])),
        ValueError,
        r"step 25 has float32\[5, 4\], but the batch of step 0 has float32\[8, 4\]",
    ),
    "shape, at a border": (Watched(broken(20, HOST[0][:5])), ValueError, "step 20 has float32"),
    "dtype": (
        Watched(broken(25, HOST[0].astype(np.int32))),
        ValueError,
        r"step 25 has int32\[8, 4\], but the batch of step 0 has float32",
    ),
    "structure": (
        Watched(broken(25, {"x": HOST[0]})),
        ValueError,
        r"step 25 has float32\[8, 4\] at path 'x', but the batch of step 0 has nothing",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_a_stream_is_told_by_its_step_and_the_last_border_is_kept(name):
    stream, kind, words = FAULTS[name]
    with pytest.raises(kind, match="(?s)" + words) as failed:
        fit(stream)
    text = "\n".join([str(failed.value), *failed.value.__notes__])
    assert "training stopped at step 20" in text
    assert failed.value.run.step == 20
    assert len(failed.value.history.steps) == 20
    same(failed.value.run, fit(BATCHES, steps=20)[0])


@pytest.fixture
def interruptible():
    """Let Ctrl-C raise, also in a job of the background, which inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_the_reader_hangs_does_not_lose_the_run(interruptible):
    """The first waits for the batch that is being read, the second does not."""
    reading, release = threading.Event(), threading.Event()

    def hang(step):
        if step == 15:
            reading.set()
            release.wait(20)

    stream = Watched(wait=hang)

    def press():
        reading.wait(20)
        time.sleep(0.3)  # the loop takes the steps that it has, then waits for the batch
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        release.set()

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(stream)
    thread.join()
    assert stopped.value.run.step == 10
    assert stream.read[-1] <= 15


def test_the_callers_generator_is_left_open_and_a_streams_own_is_closed():
    closed = []

    def read(step):
        try:
            yield from HOST[step:]
        finally:
            closed.append(step)

    mine = read(0)
    fit(mine, steps=10)
    assert closed == []
    assert next(mine) is HOST[10]
    mine.close()
    fit(data.Stream(read), steps=10)
    assert closed == [0, 0]


def test_the_reader_has_the_settings_of_the_caller():
    with jax.enable_x64(True):
        wide = PROGRAM.init(jax.random.key(0), jnp.asarray(np.float64(HOST[0])))
        seen = []

        def read():
            for batch in HOST:
                seen.append(jnp.ones(1).dtype)
                yield np.float64(batch)

        program = train.program(
            train.objective(
                lambda key, x: jnp.ones(4, x.dtype), lambda w, x: ((x @ w - 1) ** 2).mean()
            ),
            optax.sgd(0.1),
        )
        wide = program.init(jax.random.key(0), jnp.asarray(np.float64(HOST[0])))
        run, history = train.fit(program, wide, read(), steps=5, chunk=5)
    assert run.params.dtype == float
    assert history.metrics["loss"].dtype == float
    assert set(seen) == {jnp.dtype(float)}


def test_texts_are_refused():
    with pytest.raises(TypeError, match=r"step 0 has <U1 at path 'b'; expected numbers"):
        fit(itertools.repeat({"a": HOST[0], "b": np.asarray(["x"])}))
