"""The compiled loop: any number of steps in one call, without a new compilation."""

import itertools
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
from funcdl._typing import Array, PyTree
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


def advance(program: Program, run: Run, data: Any, count: int, length: int) -> tuple[Run, Chunk]:
    """Take ``count`` steps, at most ``length``; the run is donated.

    Args:
        program: The program that trains.
        run: The run to start from; its buffers are donated.
        data: Any object with a method ``at(step) -> batch``.
        count: The number of steps.
        length: The length of the log. It is static, so a shorter chunk reuses the compiled program.

    Returns:
        The new run, and the results of the chunk.
    """
    begin = time.perf_counter()
    # A call with 0 steps compiles and does nothing else; from the second chunk on it is free.
    run = jax.block_until_ready(_advance(program, length, run, data, jnp.int32(0)))[0]
    compiled = time.perf_counter()
    run, log, is_finite = _advance(program, length, run, data, jnp.int32(count))
    log = jax.tree.map(lambda x: np.asarray(x)[:count], log)
    end = time.perf_counter()
    return run, Chunk(
        log=log,
        is_finite=bool(is_finite),
        seconds=end - compiled,
        compile_seconds=compiled - begin,
    )


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _advance(
    program: Program, length: int, run: Run, data: Any, count: Array
) -> tuple[Run, PyTree, Array]:
    @jax.jit  # traced once, both for the form of the metrics and for the loop
    def step(run: Run, data):
        return program.step(run, data.at(run.step))

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


def advance_singly(program: Program, run: Run, data: Any, first: bool) -> tuple[Run, Chunk]:
    """Take one step without a loop, which is faster for XLA's own convolutions on a CPU.

    Args:
        program: The program that trains.
        run: The run to start from; its buffers are donated.
        data: Any object with a method ``at(step) -> batch``.
        first: Whether the step may not be compiled yet; the compilation is then timed on a copy.

    Returns:
        The new run, and the results of the step.
    """
    begin = time.perf_counter()
    if first:
        jax.block_until_ready(_single(program, jax.tree.map(jnp.copy, run), data))
    compiled = time.perf_counter()
    run, metrics, is_finite = _single(program, run, data)
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
    batches += batches[-1:] * (length - count)
    stacked = jax.tree.map(lambda *rows: put(np.stack(rows)), *batches)
    return Stacked(stacked, jnp.int32(start))
