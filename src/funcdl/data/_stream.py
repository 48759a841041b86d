"""Batches of data that does not fit in memory, read in order from any step."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from funcdl._check import at_least, function
from funcdl._typing import PyTree


class Stream:
    """Batches that are read in order, starting at any step.

    Pass a stream to ``fit`` where ``Batches`` would not fit in memory. A stream can seek, so a run
    resumes with the batches that come next. Each iteration starts at the step that was passed to
    ``seek``.

    Args:
        read: A function ``read(step)`` that returns an iterator over the batches from that step on.
            The batch of a step must not depend on the step at which reading began.

    Raises:
        TypeError: If ``read`` is not callable.

    >>> import itertools
    >>> numbers = Stream(lambda step: (np.full(2, i) for i in itertools.count(step)))
    >>> numbers.seek(3)
    >>> next(iter(numbers)).tolist()
    [3, 3]
    """

    def __init__(self, read: Callable[[int], Iterator[PyTree]]):
        function("read", read)
        self._read, self._step = read, 0

    def seek(self, step: int) -> None:
        """Set the step, counted from 0, at which each iteration starts.

        Raises:
            TypeError: If ``step`` is not an integer.
            ValueError: If ``step`` is negative.
        """
        at_least("step", step, 0)
        self._step = step

    def __iter__(self) -> Iterator[PyTree]:
        return iter(self._read(self._step))

    @property
    def form(self) -> PyTree:
        """The shapes and dtypes of the next batch, which is all that an ``init`` reads."""
        iterator = iter(self)
        try:
            batch = jax.tree.map(np.asarray, next(iterator))
        except StopIteration:
            raise ValueError(
                f"the stream has no batch from step {self._step} on, so it has no form; check the "
                "function read, or pass fit a stream that repeats"
            ) from None
        finally:
            getattr(iterator, "close", lambda: None)()  # it may hold files and threads
        return jax.eval_shape(lambda batch: batch, batch)


def batch_size(size: int) -> int:
    """Check the number of examples in a batch.

    Returns:
        The number.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below 1.
    """
    at_least("size", size, 1, "example")
    return size
