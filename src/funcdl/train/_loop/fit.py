"""``fit``: chunks of steps in one compiled loop, and the host's work at the chunk borders."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import at_least, function, integer
from funcdl._typing import Array, Key, PyTree
from funcdl.operators import Estimate
from funcdl.train._loop.compiled import Chunk, span
from funcdl.train._loop.hooks import attended, cut, on_duty, ordered
from funcdl.train._loop.interruption import deferred_signals, evidence
from funcdl.train._loop.pieces import in_pieces, joined
from funcdl.train._loop.prefetch import reading_ahead
from funcdl.train._out_of_range import out_of_range
from funcdl.train._program import Program, Run, check_program, check_run
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
        step: The first step with a loss that is not finite; if only the parameters are not, the
            last step that was taken.
        history: The log up to that point, ``History``; ``fit`` sets it.
        flight: The record of the program's ``flight_recorder``; ``None`` if it has no recorder.
    """

    history = None

    def __init__(self, message: str, flight: FlightRecord | None = None, step: int | None = None):
        super().__init__(message if flight is None else f"{message}; flight record: {flight}")
        self.flight, self.step = flight, step


class History(NamedTuple):
    """The log of a training run, on the host.

    Attributes:
        steps: ``(s,)``, the numbers of the steps that were taken, counted from 1.
        metrics: ``name -> (s, ...)``, one value per step (with an axis of lanes for ensembles).
        validation: ``(step, {name: value})`` for each chunk border, where a value is a float or an
            ``Estimate`` of two floats.
        compile_seconds: The time spent in compilation.
        step_seconds: The time spent in steps.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    validation: list[tuple[int, dict]]
    compile_seconds: float
    step_seconds: float


# The invariant of ``fit``: between two pieces, ``border`` holds a live run and its step, so an
# exception in the host's work there can carry the run, and callbacks can save it. While a piece
# runs, the buffers of its run are donated and ``border.run`` is None; signals are deferred to the
# end of the piece for the same reason. A chunk is cut where a callback looks, and into pieces.
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

    The steps run in chunks inside one compiled loop. At each chunk border the host calls
    ``validate(run)`` and then each ``callback(run, metrics)``. The caller's run stays valid. In a
    run with lanes, lanes that diverge neither stop the others nor enter the means.

    An exception that leaves ``fit`` carries the log as ``error.history``, and the last run as
    ``error.run`` unless it is lost; that of a ``NonFiniteError`` is. Ctrl-C and SIGTERM stop the
    training within about a second, or after the compilation, and lose no step. A second Ctrl-C
    interrupts at once and loses the steps of the last second.

    Args:
        program: The program that trains.
        run: The run to start from.
        data: Any object with a method ``at(step) -> batch``, such as ``Batches``, or an iterable of
            batches, such as ``data.Stream``, which must have ``seek(step)`` if the run does not
            start at step 0. An iterable is read in a thread, one chunk ahead and never past the
            last step.
        steps: The value of ``run.step`` at the end.
        validate: A function ``validate(run) -> dict`` of numbers or ``Estimate``. The results enter
            the history, and the metrics as ``"validation/<name>"`` and, for an estimate,
            ``"validation/<name>_stderr"``.
        callbacks: Functions ``callback(run, metrics)``; ``metrics`` holds the means over the chunk,
            ``step``, ``seconds`` and ``compile_seconds``. Returning ``train.STOP`` ends the
            training. The run is only valid during the call; use ``train.snapshot(run)`` to keep it.
            A callback may be an object with more methods: ``begin(run, callbacks)`` before the
            first step, ``due(step)``, which returns the next step at which it is called in place of
            the borders, and ``end(run)`` when training ends for any reason; its run is ``None`` if
            it is lost.
        chunk: The number of steps between two borders, which lie at its multiples. The default is
            an epoch, but at most 1000 steps, and 100 steps for a stream.

    Returns:
        The run and the history.

    Raises:
        DataError: If a batch of a stream has 64-bit values that JAX would change.
        TypeError: If ``steps`` or ``chunk`` is not an integer, or the data is not numeric.
        ValueError: If ``steps`` or ``chunk`` is out of range, the run belongs to another program,
            ``program.step`` does not count its steps, or a stream ends too early, cannot resume, or
            changes its form.
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
    _check_arguments(program, run, callbacks)
    start, steps = int(run.step), integer("steps", steps)
    chunk = chunk_length(data, chunk)
    if steps < start:
        raise ValueError(f"steps is {steps}, but the run is at step {start} already; expected more")
    source, callbacks = _source(data, start, steps, chunk), ordered(tuple(callbacks))
    for callback in callbacks:
        function("callback", callback, "a function (run, metrics)")
    pieces, validation = [], []
    take = in_pieces(program, chunk)
    with (
        evidence(run, partial(_history, start, pieces, validation)) as border,
        deferred_signals() as deliver,
        attended(callbacks, border),
        source as next_data,
    ):
        is_stopped = False
        while border.step < steps and not is_stopped:
            end = border.step + span(border.step, steps, chunk)
            batches, first = next_data(border.step), len(pieces)
            if not pieces:
                _check_run(program, run, batches)
                border.run = snapshot(run)  # the caller's run stays alive, the copy is donated
            while border.step < end and not is_stopped:
                since, target = border.step, cut(callbacks, border.step, end)
                while border.step < target:
                    _advance(program, take, border, batches, target, pieces)
                    if border.step < target:  # at a border, the callbacks come first
                        deliver()
                metrics = _means(pieces[first:], border.step)
                if validate is not None and target == end:
                    values = _validated(validate(border.run))
                    validation.append((border.step, values))
                    metrics |= _flat(values)
                looking = on_duty(callbacks, since, target, end)
                is_stopped = any([callback(border.run, metrics) is STOP for callback in looking])
                deliver()
    return border.run, _history(start, pieces, validation)


def _check_arguments(program: Any, run: Any, callbacks: Any) -> None:
    order = "; the order is (program, run, data)"
    check_program(program, order)
    check_run(run, order)
    if callable(callbacks):
        raise TypeError("callbacks is a single callback; expected a list, callbacks=[...]")


def _advance(
    program: Program,
    take: Callable,
    border: SimpleNamespace,
    batches: PyTree,
    target: int,
    pieces: list[Chunk],
) -> None:
    """Take the steps of one piece from a border to the next one, which follows ``target``."""
    run, border.run = border.run, None  # its buffers are donated now
    run, done = take(run, batches, target - border.step)
    pieces.append(done)
    step = border.step + len(done.log["loss"])
    if step > border.step:
        _check_finite(done, step, run, partial(_cause, program, run, batches))
    if int(run.step) != step:
        raise ValueError(
            f"program.step returned a run at step {int(run.step)}; expected step {step}, because "
            "fit chooses batches by run.step: return run._replace(step=run.step + 1)"
        )
    border.run, border.step = run, step


def _validated(values: Any) -> dict[str, float | Estimate]:
    """Return the results of ``validate`` on the host: numbers, and estimates with their errors."""
    if not isinstance(values, dict):
        raise TypeError(
            f"validate returned a {type(values).__name__}; expected a dict of numbers or "
            "estimates, such as the result of train.evaluate"
        )
    read = lambda name, x: (
        x._replace(value=_number(name, x.value), stderr=_number(name, x.stderr))
        if isinstance(x, Estimate)
        else _number(name, getattr(x, "value", x))
    )
    return {name: read(name, x) for name, x in values.items()}


def _number(name: str, x: Any) -> float:
    if np.shape(x) != ():
        raise ValueError(
            f"validate returned {name!r} with shape {np.shape(x)}; expected a number; for a run "
            "with lanes, return one entry for each lane"
        )
    try:
        return float(x)
    except (TypeError, ValueError):
        raise TypeError(
            f"validate returned {x!r} for {name!r}; expected a number or an Estimate"
        ) from None


def _flat(values: dict[str, float | Estimate]) -> dict[str, float]:
    """Return the entries of the metrics for the results of ``validate``."""
    flat = {}
    for name, x in values.items():
        flat[f"validation/{name}"] = x.value if isinstance(x, Estimate) else x
        if isinstance(x, Estimate):
            flat[f"validation/{name}_stderr"] = x.stderr
    return flat


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
        if any(leaf is data for leaf in jax.tree.leaves(data)):
            raise TypeError(
                f"data is a {type(data).__name__} with at(step), but JAX does not know it as a "
                "pytree; make it a NamedTuple of its arrays, or register it by "
                "jax.tree_util.register_dataclass, so that the compiled loop can take the arrays"
            )
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


@partial(jax.jit, static_argnums=0)  # never run, but it traces a program only once
def _fresh(program: Program, key: Key[Array, ""], hyper: dict, data: Any) -> Run:
    return program.init(key, data.at(0), hyper)


def _check_run(program: Program, run: Run, batches: Any) -> None:
    """Check that a run has the form that ``program.init`` would give it."""
    first = (0,) * run.key.ndim  # init takes one key; a run with lanes has one per lane
    key, hyper = jax.tree.map(lambda x: x[first], (run.key, run.hyper))
    expected = _fresh.eval_shape(program, key, hyper, batches)
    _tree.check_like(run, expected, "run", "the result of program.init")


def _check_finite(done: Chunk, step: int, run: Run, cause: Callable) -> None:
    """Raise an error if no lane of the run is finite after ``step``."""
    loss = done.log["loss"].reshape(len(done.log["loss"]), -1)  # (steps, lanes)
    is_finite = np.isfinite(loss).any(axis=1)
    if not is_finite.all():
        first = int(np.argmin(is_finite))
        broken = step - len(loss) + first + 1
        raise NonFiniteError(
            f"the loss is {loss[first, 0]} at step {broken}{cause(broken)}",
            broken_record(run),
            broken,
        )
    if not done.is_finite:
        raise NonFiniteError(
            f"the parameters are not finite after step {step}; lower the learning rate, clip the "
            "gradients, or resume from a checkpoint before that step",
            broken_record(run),
            step,
        )


def _cause(program: Program, run: Run, batches: Any, step: int) -> str:
    """Name the label that made the loss of a step NaN, or else suggest the usual remedies."""
    found = None
    # the search only explains a failure, so it must not hide it behind one of its own
    with contextlib.suppress(Exception):
        found = out_of_range(program.step, run, batches.at(jnp.int32(step - 1)))
    if found is None:
        return (
            "; lower the learning rate, clip the gradients, or resume from a checkpoint before "
            "that step; train.replay and train.diagnose name the operation"
        )
    return f": {found}; correct the data, or give the model one output per class"


def _means(pieces: list[Chunk], step: int) -> dict:
    """Average the log of the steps since the last border."""
    done = joined(pieces)
    means = {name: _mean_of_finite(values) for name, values in done.log.items()}
    return means | {"step": step, "seconds": done.seconds, "compile_seconds": done.compile_seconds}


def _mean_of_finite(values: np.ndarray) -> float:
    """Average over the steps and over the finite lanes, so that a diverged lane hides no other."""
    lanes = values.reshape(len(values), -1)
    finite = np.isfinite(lanes).all(axis=0)
    return float(lanes[:, finite].mean()) if finite.any() else float("nan")


def _history(start: int, pieces: list[Chunk], validation: list) -> History:
    done = joined(pieces) if pieces else Chunk({}, True, 0.0, 0.0)
    count = len(done.log.get("loss", ()))
    return History(
        steps=np.arange(start + 1, start + count + 1),
        metrics=done.log,
        validation=validation,
        compile_seconds=done.compile_seconds,
        step_seconds=done.seconds,
    )
