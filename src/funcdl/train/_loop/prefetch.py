"""Read the next chunk of a stream in a thread while the device runs the one before."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.train._loop.compiled import span, stack


@contextlib.contextmanager
def reading_ahead(stream: Iterable, start: int, steps: int, length: int) -> Iterator[Callable]:
    """Read one chunk ahead of the one that is asked for, and no batch after the last step.

    When the context is left, the batch that is being read is finished and the thread has ended.

    Args:
        stream: Its first batch is that of step ``start``.
        start: Of the run.
        steps: Where training ends.
        length: Of a chunk.

    Yields:
        ``next_chunk(step)``, called for one chunk after the other. What reading it raised is
        raised there.
    """
    stopped = threading.Event()
    iterator, put = iter(stream), getattr(stream, "put", jnp.asarray)
    batches = _checked(iterator, start, stopped)
    # of these settings each thread has its own
    x64, device = jax.config.jax_enable_x64, jax.config.jax_default_device

    def read(step: int):
        with jax.enable_x64(x64), jax.default_device(device):
            return stack(batches, step, span(step, steps, length), length, put)

    with ThreadPoolExecutor(1, "funcdl-stream") as reader:
        ahead = None

        def next_chunk(step: int):
            nonlocal ahead
            chunk = (ahead or reader.submit(read, step)).result()
            after = step + span(step, steps, length)
            ahead = reader.submit(read, after) if after < steps else None
            return chunk

        try:
            yield next_chunk
        finally:
            stopped.set()
    if iterator is not stream:  # one that the caller made may be read on
        getattr(iterator, "close", lambda: None)()


def _checked(batches: Iterator, start: int, stopped: threading.Event) -> Iterator[PyTree]:
    """Yield batches on the host, all of one form; what is wrong with one is told by its step."""
    first = None
    for step in itertools.count(start):
        if stopped.is_set():
            return
        try:
            batch = jax.tree.map(np.asarray, next(batches))
        except StopIteration:
            return
        except Exception as error:
            error.add_note(f"the batch of step {step} could not be read")
            raise
        form = _form(batch)
        first = first or form
        for path in form | first:
            if form.get(path) != first.get(path):
                at = f" at path {path!r}" if path else ""
                raise ValueError(
                    f"the batch of step {step} has {form.get(path, 'nothing')}{at}, the one of "
                    f"step {start} has {first.get(path, 'nothing')}; a stream gives batches of one "
                    "form: drop what is left over at the end of an epoch, or run on into the next"
                )
        yield batch


def _form(batch: PyTree) -> dict[str, str]:
    """Write the dtype and the shape of every leaf, by path."""
    leaves = jax.tree.leaves(batch)
    return {p: f"{x.dtype}{list(x.shape)}" for p, x in zip(_tree.paths(batch), leaves)}
