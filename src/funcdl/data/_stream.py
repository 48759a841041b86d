"""Batches of data that is not in memory: read one after the other, from any step on."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from funcdl._check import at_least, function
from funcdl._typing import PyTree


class Stream:
    """Batches that are read one after the other, from any step on.

    ``fit`` takes a stream where ``Batches`` would not fit in memory. It seeks, so a run resumes
    with the batches that come next. A pass starts where ``seek`` said, each time again.

    Args:
        read: ``read(step)``, an iterator of the batches from that step on; which batch belongs to
            a step must not depend on where reading began.

    Raises:
        TypeError: If ``read`` is no function.

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
        """Let the next pass start with the batch of a step, from 0.

        Raises:
            TypeError: If ``step`` is no integer.
            ValueError: If it is negative.
        """
        at_least("step", step, 0)
        self._step = step

    def __iter__(self) -> Iterator[PyTree]:
        return self._read(self._step)

    @property
    def form(self) -> PyTree:
        """The shapes and dtypes of a batch, from the next one: all that an ``init`` reads."""
        batch = jax.tree.map(np.asarray, next(iter(self)))
        return jax.eval_shape(lambda batch: batch, batch)


def batch_size(size: int) -> int:
    """Return the number of examples in a batch.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is below 1.
    """
    at_least("size", size, 1, "example")
    return size
