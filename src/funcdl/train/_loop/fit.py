"""``fit``: chunks of steps in one compiled loop, and what happens at their borders."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import at_least, integer
from funcdl._typing import PyTree
from funcdl.train._loop.compiled import Chunk, advance, advance_singly, span
from funcdl.train._loop.interruption import deferred_interrupt, evidence
from funcdl.train._loop.prefetch import reading_ahead
from funcdl.train._program import Program, Run
from funcdl.train._transforms.flight_recorder import FlightRecord, broken_record


class _Stop:
    """What a callback returns to end the training."""

    def __repr__(self):
        return "train.STOP"


STOP = _Stop()


class NonFiniteError(ArithmeticError):
    """The loss became NaN or infinite.

    Attributes:
        flight: What the program's ``flight_recorder`` held, ``None`` without one.
    """

    def __init__(self, message: str, flight: FlightRecord | None = None):
        super().__init__(message if flight is None else f"{message}; by the flight record {flight}")
        self.flight = flight


class History(NamedTuple):
    """What training left behind, on the host.

    Attributes:
        steps: ``(s,)``, the numbers of the steps that were taken, counted from 1.
        metrics: ``name -> (s, ...)``, one value a step (with a lane axis for ensembles).
        validation: ``(step, {name: value})`` for each chunk border.
        compile_seconds: Until the first step could run.
        step_seconds: In steps.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    validation: list[tuple[int, dict]]
    compile_seconds: float
    step_seconds: float


def fit(
    program: Program,
    run: Run,
    data: PyTree,
    *,
    steps: int,
    validate: Callable | None = None,
    callbacks: Iterable[Callable] = (),
    chunk: int | None = None,
) -> tuple[Run, History]:
    """Train until ``run.step`` is ``steps``; the same call resumes a run that stopped before.

    Steps run in chunks inside one compiled loop. At a chunk border the host looks at the metrics,
    calls ``validate(run)`` and then each ``callback(run, metrics)``. The caller's run stays valid.

    An exception that leaves ``fit`` at a border (Ctrl-C waits for it, a callback's own) carries the
    run of that border as ``error.run`` and what was logged as ``error.history``;
    ``NonFiniteError`` has no run worth keeping. Of a run with lanes, those that diverge do not stop
    the others, and do not enter the means.

    Args:
        program: ``init`` and ``step``.
        run: Where to start.
        data: Whatever has ``at(step) -> batch``, such as ``Batches``; or an iterable of batches,
            which must have ``seek(step)`` if the run does not start at 0, such as ``data.Stream``.
            It is read in a thread, one chunk ahead, never past the last step.
        steps: The value of ``run.step`` at the end.
        validate: ``validate(run) -> dict`` of numbers or ``Estimate``; they enter the history, and
            the metrics as ``"validation/<name>"``.
        callbacks: Each ``callback(run, metrics)``; ``metrics`` holds the means over the chunk,
            ``step``, ``seconds`` and ``compile_seconds``. Returning ``train.STOP`` ends the
            training. The run is valid during the call; ``train.snapshot(run)`` keeps it.
        chunk: Steps between two borders, which lie at its multiples. By default an epoch, at most
            1000, and 100 for a stream.

    Returns:
        The run and the history.

    Raises:
        TypeError: If ``steps`` or ``chunk`` is no integer, or data of no numbers.
        ValueError: If ``steps`` or ``chunk`` is out of range, the run is of another program, or a
            stream ends too early, cannot resume, or changes its form.
        NonFiniteError: If loss or parameters are not finite; the step is named, and the layer if
            the program has a ``flight_recorder``.

    >>> import optax
    >>> from funcdl import data, train
    >>> mean = train.objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(mean, optax.sgd(0.25))
    >>> batches = data.Batches(jnp.asarray([1.0, 3.0]), 2)
    >>> run, history = fit(sgd, sgd.init(jax.random.key(0), batches.at(0)), batches, steps=20)
    >>> run.params.round(3).item(), history.metrics["loss"].shape
    (2.0, (20,))
    """
    if not hasattr(run, "step"):
        raise TypeError(f"run is a {type(run).__name__}; expected a train.Run, from program.init")
    start, steps = int(run.step), integer("steps", steps)
    chunk = chunk_length(data, chunk)
    if steps < start:
        raise ValueError(f"steps is {steps}, but the run is at step {start} already; expected more")
    source, callbacks = _source(data, start, steps, chunk), tuple(callbacks)
    chunks, validation = [], []
    history = partial(_history, start, chunks, validation)
    with (
        deferred_interrupt() as interrupted,
        evidence(start, history) as border,
        source as next_data,
    ):
        while border.step < steps:
            count = span(border.step, steps, chunk)
            batches = next_data(border.step)
            if not chunks:
                _check_run(program, run, batches)
                run = snapshot(run)  # the caller's stays alive, this one is donated
            border.run = None  # its buffers are used up now
            if chunk == 1:
                run, done = advance_singly(program, run, batches, first=not chunks)
            else:
                run, done = advance(program, run, batches, count, chunk)
            chunks.append(done)
            metrics = _means(done, border.step + count, run)
            border.run, border.step = run, border.step + count
            if validate is not None:
                found = {name: float(getattr(x, "value", x)) for name, x in validate(run).items()}
                validation.append((border.step, found))
                metrics |= {f"validation/{name}": x for name, x in found.items()}
            results = [callback(run, metrics) for callback in callbacks]
            if interrupted.is_set():
                raise KeyboardInterrupt
            if any(result is STOP for result in results):
                break
    return run, history()


def snapshot(run: PyTree) -> PyTree:
    """Copy a run, so that it outlives the chunk in which ``fit`` would use up its buffers.

    Args:
        run: Any pytree of arrays.

    Returns:
        The copy.
    """
    return jax.tree.map(jnp.copy, run)


def chunk_length(data, chunk: int | None) -> int:
    """Return how many steps lie between two borders."""
    if chunk is None:
        return min(1000, data.steps(1)) if hasattr(data, "steps") else 100
    at_least("chunk", chunk, 1, "step")
    return chunk


def _source(data, start: int, steps: int, chunk: int) -> contextlib.AbstractContextManager:
    """Give ``next_data(step)``: resident data as it is, a stream in stacked chunks."""
    if callable(getattr(data, "at", None)):
        return contextlib.nullcontext(lambda step: data)
    if isinstance(data, (tuple, dict)) or hasattr(data, "shape"):
        raise TypeError(
            f"data is a {type(data).__name__} of arrays, one data set; cut it into batches with "
            "data.Batches(arrays, size)"
        )
    if not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        kind = type(data).__name__
        raise TypeError(f"data is a {kind}; expected what has at(step), or an iterable of batches")
    if start and not hasattr(data, "seek"):
        raise ValueError(
            f"the run resumes at step {start}, but the stream of batches has no seek(step): it "
            "cannot tell its position; give fit Batches, or a stream with seek"
        )
    if hasattr(data, "seek"):
        data.seek(start)
    return reading_ahead(data, start, steps, chunk)


def _check_run(program: Program, run: Run, batches) -> None:
    def fresh(key, hyper, data):
        return program.init(key, data.at(0), hyper)

    first = (0,) * run.key.ndim  # lanes have a key and hyper-parameters each
    one = jax.tree.map(lambda x: x[first], (run.key, run.hyper))
    expected = jax.eval_shape(fresh, *one, batches)
    _tree.check_like(run, expected, "run", "what program.init makes")


def _means(done: Chunk, step: int, run: Run) -> dict:
    """Average the log of a chunk; refuse a run of which no lane is finite any more."""
    loss = done.log["loss"].reshape(len(done.log["loss"]), -1)  # (steps, lanes)
    sound = np.isfinite(loss).any(axis=1)
    if not sound.all():
        first = int(np.argmin(sound))
        raise NonFiniteError(
            f"the loss is {loss[first, 0]} at step {step - len(loss) + first + 1}; lower the "
            "learning rate, clip the gradients, look for labels out of range, or resume from a "
            "checkpoint before that step",
            broken_record(run),
        )
    if not done.sound:
        raise NonFiniteError(
            f"the parameters are not finite after step {step}; lower the learning rate, clip the "
            "gradients, or resume from a checkpoint before that step",
            broken_record(run),
        )
    means = {name: _mean_of_finite(values) for name, values in done.log.items()}
    return means | {"step": step, "seconds": done.seconds, "compile_seconds": done.compile_seconds}


def _mean_of_finite(values: np.ndarray) -> float:
    """Average over steps, and over the lanes that are finite: one that diverged hides no other."""
    lanes = values.reshape(len(values), -1)
    finite = np.isfinite(lanes).all(axis=0)
    return float(lanes[:, finite].mean()) if finite.any() else float("nan")


def _history(start: int, chunks: list[Chunk], validation: list) -> History:
    logs = [chunk.log for chunk in chunks]
    metrics = jax.tree.map(lambda *parts: np.concatenate(parts), *logs) if logs else {}
    count = sum(len(log["loss"]) for log in logs)
    return History(
        steps=np.arange(start + 1, start + count + 1),
        metrics=metrics,
        validation=validation,
        compile_seconds=sum(chunk.compile_seconds for chunk in chunks),
        step_seconds=sum(chunk.seconds for chunk in chunks),
    )
