"""The compiled loop: many steps in one call, any number of them without compiling again."""

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _jaxpr, _source, _tree
from funcdl._typing import Array, PyTree
from funcdl.train._program import Program, Run


class Stacked(NamedTuple):
    """A chunk of a stream on the device: batches of the steps from ``start`` on."""

    batches: PyTree
    start: Array

    def at(self, step) -> PyTree:
        """Return the batch of a step."""
        return jax.tree.map(lambda a: a[step - self.start], self.batches)


class Chunk(NamedTuple):
    """What one call of the loop leaves on the host: ``(count, ...)`` metrics, and its time."""

    log: dict[str, np.ndarray]
    sound: bool  # whether the parameters are finite, in some lane at least
    seconds: float
    compile_seconds: float


def advance(program: Program, run: Run, data, count: int, length: int) -> tuple[Run, Chunk]:
    """Take ``count`` steps, at most ``length``; the run is donated.

    Args:
        program: ``init`` and ``step``.
        run: Where to start; its buffers are used up.
        data: Whatever has ``at(step)``.
        count: How many steps.
        length: Of the log; static, so that a shorter chunk runs the same program.

    Returns:
        The run and what happened.
    """
    begin = time.perf_counter()
    # no step at all: this only compiles, and only the first time
    run = jax.block_until_ready(_advance(program, length, run, data, jnp.int32(0)))[0]
    compiled = time.perf_counter()
    run, log, sound = _advance(program, length, run, data, jnp.int32(count))
    log = jax.tree.map(lambda x: np.asarray(x)[:count], log)
    end = time.perf_counter()
    return run, Chunk(log, bool(sound), end - compiled, compiled - begin)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _advance(program: Program, length: int, run: Run, data, count: Array):
    @jax.jit  # traced once, for the form of the metrics and for the loop
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
    return run, log, _sound(run)


def _sound(run: Run) -> Array:
    """Tell whether all parameters are finite; of a run with lanes, those of at least one."""
    lanes = run.key.shape
    finite = [jnp.isfinite(x).reshape(*lanes, -1).all(axis=-1) for x in jax.tree.leaves(run.params)]
    return jnp.stack(finite).all(axis=0).any()


def _warn_of_convolutions(jaxpr) -> None:
    """Tell that XLA's convolution is 3.5 to 5 times slower inside a loop on a CPU."""
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


def advance_singly(program: Program, run: Run, data, first: bool) -> tuple[Run, Chunk]:
    """Take one step outside of any loop: a net of XLA's own convolutions is faster so on a CPU.

    Args:
        program: ``init`` and ``step``.
        run: Where to start; its buffers are used up.
        data: Whatever has ``at(step)``.
        first: Whether it may still have to be compiled, which then is timed on a copy.

    Returns:
        The run and what happened.
    """
    begin = time.perf_counter()
    if first:
        jax.block_until_ready(_single(program, jax.tree.map(jnp.copy, run), data))
    compiled = time.perf_counter()
    run, metrics, sound = _single(program, run, data)
    log = jax.tree.map(lambda x: np.asarray(x)[None], metrics)
    return run, Chunk(log, bool(sound), time.perf_counter() - compiled, compiled - begin)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _single(program: Program, run: Run, data):
    run, metrics = program.step(run, data.at(run.step))
    return run, metrics, _sound(run)


def span(step: int, steps: int, length: int) -> int:
    """Count the steps up to the next border, which is a multiple of ``length`` or the end."""
    return min(length - step % length, steps - step)


def stack(stream: Iterator, start: int, count: int, length: int, put: Callable) -> Stacked:
    """Take ``count`` batches from a stream; the last is repeated up to ``length``, never used.

    Returns:
        The chunk, where ``put`` put its arrays.

    Raises:
        TypeError: If a batch is not of numbers.
        ValueError: If the stream ends too early.
    """
    batches = list(itertools.islice(stream, count))
    if len(batches) < count:
        raise ValueError(
            f"the stream of batches ended at step {start + len(batches)}; expected {count} more "
            f"from step {start} on: give fit fewer steps, or a stream that repeats"
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
