"""``fit``: chunks of steps in one compiled loop, and the host's work at the chunk borders."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

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
    """The type of the value that a callback returns to end the training."""

    def __repr__(self):
        return "train.STOP"


STOP = _Stop()
Callback = Callable[[Run, dict], _Stop | None]  # callback(run, metrics)


class NonFiniteError(ArithmeticError):
    """The loss or the parameters became NaN or infinite.

    Attributes:
        flight: The record of the program's ``flight_recorder``; ``None`` if it has no recorder.
    """

    def __init__(self, message: str, flight: FlightRecord | None = None):
        super().__init__(message if flight is None else f"{message}; flight record: {flight}")
        self.flight = flight


class History(NamedTuple):
    """The log of a training run, on the host.

    Attributes:
        steps: ``(s,)``, the numbers of the steps that were taken, counted from 1.
        metrics: ``name -> (s, ...)``, one value per step (with an axis of lanes for ensembles).
        validation: ``(step, {name: value})`` for each chunk border.
        compile_seconds: The time spent in compilation.
        step_seconds: The time spent in steps.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    validation: list[tuple[int, dict]]
    compile_seconds: float
    step_seconds: float


# The invariant of ``fit`` at a border: ``border`` holds a live run and its step, so an exception in
# the host's work there can carry the run. While a chunk runs, the buffers of its run are donated
# and ``border.run`` is None; Ctrl-C is deferred to the border for the same reason.
def fit(
    program: Program,
    run: Run,
    data: PyTree,
    *,
    steps: int,
    validate: Callable[[Run], dict] | None = None,
    callbacks: Iterable[Callback] = (),
    chunk: int | None = None,
) -> tuple[Run, History]:
    """Train until ``run.step`` is ``steps``; the same call resumes a run that stopped earlier.

    The steps run in chunks inside one compiled loop. At each chunk border the host checks the
    metrics, calls ``validate(run)`` and then each ``callback(run, metrics)``. The caller's run
    stays valid.

    An exception that leaves ``fit`` at a border (Ctrl-C, which waits for the border, or an
    exception in a callback) carries the run of that border as ``error.run`` and the log as
    ``error.history``; a ``NonFiniteError`` carries neither. In a run with lanes, lanes that diverge
    neither stop the others nor enter the means.

    Args:
        program: The program that trains.
        run: The run to start from.
        data: Any object with a method ``at(step) -> batch``, such as ``Batches``, or an iterable of
            batches, such as ``data.Stream``, which must have ``seek(step)`` if the run does not
            start at step 0. An iterable is read in a thread, one chunk ahead and never past the
            last step.
        steps: The value of ``run.step`` at the end.
        validate: A function ``validate(run) -> dict`` of numbers or ``Estimate``. The results enter
            the history, and the metrics as ``"validation/<name>"``.
        callbacks: Functions ``callback(run, metrics)``; ``metrics`` holds the means over the chunk,
            ``step``, ``seconds`` and ``compile_seconds``. Returning ``train.STOP`` ends the
            training. The run is only valid during the call; use ``train.snapshot(run)`` to keep it.
        chunk: The number of steps between two borders, which lie at its multiples. The default is
            an epoch, but at most 1000 steps, and 100 steps for a stream.

    Returns:
        The run and the history.

    Raises:
        TypeError: If ``steps`` or ``chunk`` is not an integer, or the data is not numeric.
        ValueError: If ``steps`` or ``chunk`` is out of range, the run belongs to another program,
            or a stream ends too early, cannot resume, or changes its form.
        NonFiniteError: If the loss or the parameters are not finite. The message names the step,
            and the layers if the program has a ``flight_recorder``.

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
                run = snapshot(run)  # the caller's run stays alive, the copy is donated
            border.run = None  # its buffers are donated now
            if chunk == 1:
                run, done = advance_singly(program, run, batches, first=not chunks)
            else:
                run, done = advance(program, run, batches, count, chunk)
            chunks.append(done)
            metrics = _means(done, border.step + count, run)
            border.run, border.step = run, border.step + count
            if validate is not None:
                values = {name: float(getattr(x, "value", x)) for name, x in validate(run).items()}
                validation.append((border.step, values))
                metrics |= {f"validation/{name}": x for name, x in values.items()}
            results = [callback(run, metrics) for callback in callbacks]
            if interrupted.is_set():
                raise KeyboardInterrupt
            if any(result is STOP for result in results):
                break
    return run, history()


def snapshot(run: PyTree) -> PyTree:
    """Copy a run, so that it outlives the chunk in which ``fit`` donates its buffers.

    Args:
        run: Any pytree of arrays.

    Returns:
        The copy.
    """
    return jax.tree.map(jnp.copy, run)


def chunk_length(data: Any, chunk: int | None) -> int:
    """Return the number of steps between two borders."""
    if chunk is None:
        return min(1000, data.steps(1)) if hasattr(data, "steps") else 100
    at_least("chunk", chunk, 1, "step")
    return chunk


def _source(data: Any, start: int, steps: int, chunk: int) -> contextlib.AbstractContextManager:
    """Return the context of ``next_data(step)``: resident data itself, or a stream in chunks."""
    if callable(getattr(data, "at", None)):
        return contextlib.nullcontext(lambda step: data)
    if isinstance(data, (tuple, dict)) or hasattr(data, "shape"):
        raise TypeError(
            f"data is a {type(data).__name__} of arrays, one data set; split it into batches with "
            "data.Batches(arrays, size)"
        )
    if not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise TypeError(
            f"data is a {type(data).__name__}; expected an object with at(step), such as "
            "data.Batches, or an iterable of batches"
        )
    if start and not hasattr(data, "seek"):
        raise ValueError(
            f"the run resumes at step {start}, but the stream of batches has no seek(step), so it "
            "cannot continue there; pass fit data.Batches, or a stream with seek"
        )
    if hasattr(data, "seek"):
        data.seek(start)
    return reading_ahead(data, start, steps, chunk)


def _check_run(program: Program, run: Run, batches: Any) -> None:
    """Check that a run has the form that ``program.init`` would give it."""

    def fresh(key, hyper, data):
        return program.init(key, data.at(0), hyper)

    first = (0,) * run.key.ndim  # init takes one key; a run with lanes has one per lane
    key, hyper = jax.tree.map(lambda x: x[first], (run.key, run.hyper))
    expected = jax.eval_shape(fresh, key, hyper, batches)
    _tree.check_like(run, expected, "run", "the result of program.init")


def _means(done: Chunk, step: int, run: Run) -> dict:
    """Average the log of a chunk; raise if no lane of the run is finite."""
    loss = done.log["loss"].reshape(len(done.log["loss"]), -1)  # (steps, lanes)
    is_finite = np.isfinite(loss).any(axis=1)
    if not is_finite.all():
        first = int(np.argmin(is_finite))
        raise NonFiniteError(
            f"the loss is {loss[first, 0]} at step {step - len(loss) + first + 1}; lower the "
            "learning rate, clip the gradients, check for labels out of range, or resume from a "
            "checkpoint before that step",
            broken_record(run),
        )
    if not done.is_finite:
        raise NonFiniteError(
            f"the parameters are not finite after step {step}; lower the learning rate, clip the "
            "gradients, or resume from a checkpoint before that step",
            broken_record(run),
        )
    means = {name: _mean_of_finite(values) for name, values in done.log.items()}
    return means | {"step": step, "seconds": done.seconds, "compile_seconds": done.compile_seconds}


def _mean_of_finite(values: np.ndarray) -> float:
    """Average over the steps and over the finite lanes, so that a diverged lane hides no other."""
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
