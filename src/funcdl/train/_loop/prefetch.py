"""Read the next chunk of a stream in a thread while the device runs the current one."""

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

# One worker thread reads, so batches are read in order and the stream needs no lock. At most one
# chunk is in flight: ``next_chunk`` waits for the pending chunk and then submits the next one,
# which is read while the device runs. Nothing is read past the last step, so a finite stream needs
# no more batches than there are steps.


@contextlib.contextmanager
def reading_ahead(stream: Iterable, start: int, steps: int, length: int) -> Iterator[Callable]:
    """Read one chunk ahead of the requested one, but no batch after the last step.

    When the context exits, the batch that is being read is completed and the thread has ended.

    Args:
        stream: An iterable of batches that starts with the batch of step ``start``.
        start: The step at which the run starts.
        steps: The step at which training ends.
        length: The length of a chunk.

    Yields:
        A function ``next_chunk(step) -> Stacked``, to be called for the chunks in order. An
        exception of the reading thread is raised by the call that requests the chunk.
    """
    stopped = threading.Event()
    iterator, put = iter(stream), getattr(stream, "put", jnp.asarray)
    batches = _checked(iterator, start, stopped)
    # these settings are per thread, so the reader does not inherit them from the caller
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

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
    if iterator is not stream:  # an iterator of the caller stays open, and can be read further
        getattr(iterator, "close", lambda: None)()


def _checked(batches: Iterator, start: int, stopped: threading.Event) -> Iterator[PyTree]:
    """Yield batches on the host, all of the same form; errors name the step of the batch."""
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
                place = f" at path {path!r}" if path else ""
                raise ValueError(
                    f"the batch of step {step} has {form.get(path, 'nothing')}{place}, but the "
                    f"batch of step {start} has {first.get(path, 'nothing')}; all batches of a "
                    "stream must have the same form: drop the smaller batch at the end of an "
                    "epoch, or fill it from the next epoch"
                )
        yield batch


def _form(batch: PyTree) -> dict[str, str]:
    """Return the dtype and the shape of every leaf as text, by path."""
    leaves = jax.tree.leaves(batch)
    return {p: f"{x.dtype}{list(x.shape)}" for p, x in zip(_tree.paths(batch), leaves)}
