"""The compiled loop: any number of steps in one call, without a new compilation."""

import contextlib
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from funcdl import _jaxpr, _source, _tree
from funcdl._check import narrowed
from funcdl._typing import Array, PyTree
from funcdl.data import DataError
from funcdl.train._program import Program, Run


class Stacked(NamedTuple):
    """A chunk of a stream on the device: the batches of the steps from ``start`` on."""

    batches: PyTree
    start: Array

    def at(self, step: Array | int) -> PyTree:
        """Return the batch of a step."""
        return jax.tree.map(lambda a: a[step - self.start], self.batches)


class Chunk(NamedTuple):
    """The results of one call of the loop on the host.

    Attributes:
        log: The metrics of the steps, ``(count, ...)``.
        is_finite: Whether the parameters are finite in at least one lane.
        seconds: The time of the steps.
        compile_seconds: The time of the compilation.
    """

    log: dict[str, np.ndarray]
    is_finite: bool
    seconds: float
    compile_seconds: float


def advance(
    program: Program, run: Run, data: Any, count: int, length: int, *, patient: bool = False
) -> tuple[Run, Chunk]:
    """Take ``count`` steps, at most ``length``; the run is donated.

    Args:
        program: The program that trains.
        run: The run to start from; its buffers are donated.
        data: Any object with a method ``at(step) -> batch``.
        count: The number of steps; 0 compiles and does nothing else.
        length: The length of the log. It is static, so a shorter chunk reuses the compiled program.
        patient: Whether signal handlers can run while the device does.

    Returns:
        The new run, and the results of the chunk.
    """
    begin = time.perf_counter()
    run, log, is_finite = _waited(
        _advance(program, length, run, data, jnp.int32(count)), patient=patient
    )
    log = jax.tree.map(lambda x: np.asarray(x)[:count], log)
    return run, Chunk(
        log=log,
        is_finite=bool(is_finite),
        seconds=time.perf_counter() - begin,
        compile_seconds=0.0,
    )


def _waited(results: PyTree, *, patient: bool) -> PyTree:
    """Wait for the device, if ``patient`` in a thread, because a handler interrupts a join."""

    def wait():
        with contextlib.suppress(Exception):  # it is raised again where the results are read
            jax.block_until_ready(results)

    if patient:
        # not a daemon: Python would end such a thread in the middle of the runtime's code and abort
        thread = threading.Thread(target=wait, name="funcdl-wait")
        thread.start()
        thread.join()
    return results


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _advance(
    program: Program, length: int, run: Run, data: Any, count: Array
) -> tuple[Run, PyTree, Array]:
    @jax.jit  # traced once, both for the form of the metrics and for the loop
    def step(run: Run, data):
        run, metrics = program.step(run, data.at(run.step))
        _check_metrics(metrics)
        return run, metrics

    jaxpr, (_, metrics) = jax.make_jaxpr(step, return_shape=True)(run, data)
    _warn_of_convolutions(jaxpr)
    log = jax.tree.map(lambda m: jnp.zeros((length, *m.shape), m.dtype), metrics)

    def body(i, carry):
        run, log = carry
        run, metrics = step(run, data)
        return run, jax.tree.map(lambda rows, m: rows.at[i].set(m), log, metrics)

    run, log = jax.lax.fori_loop(0, count, body, (run, log))
    return run, log, _is_finite(run)


def _is_finite(run: Run) -> Array:
    """Tell whether all parameters are finite, in at least one lane if the run has lanes."""
    lanes = run.key.shape
    finite = [jnp.isfinite(x).reshape(*lanes, -1).all(axis=-1) for x in jax.tree.leaves(run.params)]
    return jnp.stack(finite).all(axis=0).any()


def _check_metrics(metrics: Any) -> None:
    """Check the metrics that ``program.step`` returned, while it is traced.

    Raises:
        TypeError: If they are not a dict of numbers with the entry ``loss``.
    """
    problem = ""
    if not isinstance(metrics, dict):
        problem = f"a {type(metrics).__name__}"
    elif "loss" not in metrics:
        problem = f"no 'loss', but {sorted(metrics)}"
    else:
        nested = [name for name, value in metrics.items() if isinstance(value, (dict, list, tuple))]
        problem = f"a {type(metrics[nested[0]]).__name__} under {nested[0]!r}" if nested else ""
    if problem:
        raise TypeError(
            f"the metrics of program.step are {problem}; expected a dict of numbers, one for each "
            "name, with the entry 'loss'"
        )


def _warn_of_convolutions(jaxpr: jex.Jaxpr | jex.ClosedJaxpr) -> None:
    """Warn that XLA's convolution is 3.5 to 5 times slower inside a loop on a CPU."""
    if jax.default_backend() != "cpu":
        return
    for equation in _jaxpr.equations(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            warnings.warn(
                f"the convolution {_source.scope(equation)!r} is several times slower inside the "
                "compiled loop on a CPU; use funcdl.nn.Conv, which takes the same parameters as "
                "flax.linen.Conv, or fit(..., chunk=1)",
                stacklevel=1,
            )
            return


def advance_singly(
    program: Program, run: Run, data: Any, *, first: bool, patient: bool = False
) -> tuple[Run, Chunk]:
    """Take one step without a loop, which is faster for XLA's own convolutions on a CPU.

    Args:
        program: The program that trains.
        run: The run to start from; its buffers are donated.
        data: Any object with a method ``at(step) -> batch``.
        first: Whether the step may not be compiled yet; the compilation is then timed on a copy.
        patient: Whether signal handlers can run while the device does.

    Returns:
        The new run, and the results of the step.
    """
    begin = time.perf_counter()
    if first:
        jax.block_until_ready(_single(program, jax.tree.map(jnp.copy, run), data))
    compiled = time.perf_counter()
    run, metrics, is_finite = _waited(_single(program, run, data), patient=patient)
    log = jax.tree.map(lambda x: np.asarray(x)[None], metrics)
    return run, Chunk(
        log=log,
        is_finite=bool(is_finite),
        seconds=time.perf_counter() - compiled,
        compile_seconds=compiled - begin,
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _single(program: Program, run: Run, data: Any) -> tuple[Run, dict, Array]:
    run, metrics = program.step(run, data.at(run.step))
    _check_metrics(metrics)
    return run, metrics, _is_finite(run)


def span(step: int, steps: int, length: int) -> int:
    """Count the steps up to the next border, which is a multiple of ``length`` or the end."""
    return min(length - step % length, steps - step)


def stack(stream: Iterator, start: int, count: int, length: int, put: Callable) -> Stacked:
    """Stack ``count`` batches of a stream, padded to ``length`` with repetitions of the last one.

    The padding keeps the shape of all chunks equal, so they share one compilation; it is never
    read.

    Returns:
        The chunk, with its arrays placed by ``put``.

    Raises:
        DataError: If JAX would change the values of a batch.
        TypeError: If a batch is not of numbers.
        ValueError: If the stream ends too early.
    """
    batches = list(itertools.islice(stream, count))
    if len(batches) < count:
        raise ValueError(
            f"the stream of batches ended at step {start + len(batches)}; expected {count} more "
            f"from step {start} on; reduce steps, or pass fit a stream that repeats"
        )
    if not jax.tree.leaves(batches[0]):
        raise TypeError(f"the batch of step {start} is {batches[0]!r}; expected arrays")
    for path, leaf in zip(_tree.paths(batches[0]), jax.tree.leaves(batches[0])):
        if leaf.dtype.kind in "OUSM":
            raise TypeError(
                f"the batch of step {start} has {leaf.dtype} at path {path!r}; expected numbers"
            )
    _check_values(batches, start)
    batches += batches[-1:] * (length - count)
    stacked = jax.tree.map(lambda *rows: put(np.stack(rows)), *batches)
    return Stacked(stacked, jnp.int32(start))


def _check_values(batches: list, start: int) -> None:
    """Raise an error for 64-bit numbers that do not fit the dtype of JAX."""
    for step, batch in enumerate(batches, start):
        for path, leaf in zip(_tree.paths(batch), jax.tree.leaves(batch)):
            problem = narrowed(leaf)
            if problem:
                place = f" at path {path!r}" if path else ""
                raise DataError(f"the batch of step {step}{place} {problem}")
