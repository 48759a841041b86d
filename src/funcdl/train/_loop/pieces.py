"""A chunk in pieces of about a second, so that a training can always be stopped soon."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from funcdl._typing import PyTree
from funcdl.train._loop.compiled import Chunk, advance, advance_singly
from funcdl.train._program import Program, Run

_SECONDS = 1.0  # the time that a piece may take
_SHORT = 0.25  # seconds below which it is not worth a thread to wait for the device
_SILENCE = 2.0  # seconds of compilation after which a line says so
_GROWTH = 16  # a piece is at most this many times longer than the one before


# The time of a step is unknown at first, so pieces start with a single step and grow. Where a piece
# ends depends on the clock, but the results do not: a piece calls the same compiled loop, to which
# the number of steps is a traced argument. Several processes must agree on the steps of a call, so
# there a chunk is a single piece.
def in_pieces(program: Program, length: int) -> Callable[[Run, PyTree, int], tuple[Run, Chunk]]:
    """Return the function that takes the steps of a training, piece by piece.

    Args:
        program: The program that trains.
        length: The number of steps in a chunk.

    Returns:
        A function ``take(run, data, count) -> (run, piece)``, which takes some of ``count`` steps:
        none in the first call, which compiles, and later about a second's worth. The run is
        donated.
    """
    size, seconds = 1, float("inf")  # of the next piece
    is_compiled = False
    is_alone = jax.process_count() == 1

    def take(run: Run, data: Any, count: int) -> tuple[Run, Chunk]:
        nonlocal size, seconds, is_compiled
        first, is_compiled = not is_compiled, True
        patient = is_alone and seconds > _SHORT
        if length == 1:
            with _compiling() if first else contextlib.nullcontext():
                run, done = advance_singly(program, run, data, first=first, patient=patient)
            seconds = done.seconds
            return run, done
        if first:
            with _compiling():
                run, done = advance(program, run, data, 0, length)
            return run, done._replace(seconds=0.0, compile_seconds=done.seconds)
        count = min(count, size) if is_alone else count
        run, done = advance(program, run, data, count, length, patient=patient)
        each = max(done.seconds, 1e-9) / count
        size = max(1, min(int(_SECONDS / each), _GROWTH * size))
        seconds = size * each
        return run, done

    return take


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """Print a line if the compilation takes long: no signal handler runs in the meantime."""
    text = "compiling the training step; Ctrl-C stops the training as soon as this is done"

    def say():
        with contextlib.suppress(ValueError):  # stderr is closed
            print(text, file=sys.stderr, flush=True)

    timer = threading.Timer(_SILENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def joined(pieces: Sequence[Chunk]) -> Chunk:
    """Join the pieces of a chunk."""
    return Chunk(
        log=jax.tree.map(lambda *parts: np.concatenate(parts), *(p.log for p in pieces)),
        is_finite=all(p.is_finite for p in pieces),
        seconds=sum(p.seconds for p in pieces),
        compile_seconds=sum(p.compile_seconds for p in pieces),
    )
