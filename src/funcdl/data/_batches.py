"""Batches of data that is in memory: a pure function from a step to a batch."""

import functools
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import check_key, integer
from funcdl._typing import PyTree
from funcdl.data._checks import check
from funcdl.data._shuffle import shuffled


@jax.tree_util.register_pytree_with_keys_class
class Batches:
    """Arrays on the device, cut into batches by ``at(step)``, a pure function.

    With a key every epoch has its own order, drawn statelessly; positions run on over the epoch
    border, so that no batch is ragged and each example comes once an epoch. ``key=None`` is the
    stored order. A pytree: arrays and key are leaves, so it is handed to ``jax.jit``, not closed
    over.

    Args:
        arrays: Pytree of arrays with a leading axis of examples; dtypes stay as they are.
        size: Examples in a batch.
        key: Draws the order.
        transform: Deterministic ``transform(batch) -> batch``, applied to every batch: from uint8
            to float, say. A module-level function, or each new one is a new compilation.

    Raises:
        DataError: If the data is empty, ragged or not finite.
        TypeError: If a leaf is no array of numbers, ``size`` no integer or ``key`` no typed key.
        ValueError: If ``size`` is not in 1..n.

    >>> batches = Batches(jnp.arange(5), 2)
    >>> [batches.at(step).tolist() for step in range(3)]
    [[0, 1], [2, 3], [4, 0]]
    """

    def __init__(
        self,
        arrays: PyTree,
        size: int,
        *,
        key=None,
        transform: Callable | None = None,
    ):
        examples = check(arrays)
        size = integer("size", size)
        if not 1 <= size <= examples:
            raise ValueError(f"size is {size}; expected 1 <= size <= {examples}, the examples")
        if key is not None:
            check_key(key)
        self.arrays = jax.tree.map(jnp.asarray, arrays)
        self.key, self.size, self.transform = key, size, transform

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return jax.tree.leaves(self.arrays)[0].shape[0]

    @property
    def form(self) -> PyTree:
        """The shapes and dtypes of a batch: all that an ``init`` reads."""
        return jax.eval_shape(self.at, 0)

    def at(self, step) -> PyTree:
        """Return the batch of a step, an integer from 0 to 2³¹ - 1; traceable.

        Raises:
            TypeError: If ``step`` is no integer.
            ValueError: If a step that is not traced is out of range.
        """
        if not jnp.issubdtype(jnp.result_type(step), jnp.integer):
            raise TypeError(f"step has dtype {jnp.result_type(step)}; expected an integer")
        if isinstance(step, (int, np.integer)) and not 0 <= step < 2**31:
            raise ValueError(f"step is {step}; expected 0 <= step < 2**31")
        n = self.examples
        epoch, place = _divmod(jnp.asarray(step, jnp.int32), self.size, n)
        places = place + jnp.arange(self.size, dtype=jnp.int32)
        epochs, places = epoch + places // n, places % n
        index = places if self.key is None else shuffled(self.key, epochs, places, n)
        return self._transformed(jax.tree.map(lambda a: a[index], self.arrays))

    def steps(self, epochs: float | int) -> int:
        """Count the steps after which every example was seen ``epochs`` times."""
        return math.ceil(epochs * self.examples / self.size)

    def total(self, f: Callable) -> PyTree:
        """Sum ``f(batch)`` over all examples, each once, in stored order.

        Args:
            f: ``f(batch) -> sums`` (not means), a pytree; it sees batches of ``size`` under
                ``scan``, and then what is left over.

        Returns:
            The sums.
        """
        count, rest = divmod(self.examples, self.size)
        whole = jax.jit(lambda i: f(self.rows(i * self.size, self.size)))  # traced once for both:
        steps = jnp.arange(count)
        zeros = _tree.zeros(jax.eval_shape(whole, steps[0]))
        add = lambda sums, i: (_tree.add(sums, whole(i)), None)
        sums, _ = jax.lax.scan(add, zeros, steps)
        return _tree.add(sums, f(self.rows(count * self.size, rest))) if rest else sums

    def each(self, f: Callable) -> PyTree:
        """Apply ``f(batch)`` to all examples, each once: results in stored order.

        Args:
            f: ``f(batch) -> y``, with a leading axis of examples; it sees batches as in ``total``.

        Returns:
            All ``y``, one after the other.
        """
        count, rest = divmod(self.examples, self.size)
        y = jax.lax.map(lambda i: f(self.rows(i * self.size, self.size)), jnp.arange(count))
        y = jax.tree.map(lambda a: a.reshape(count * self.size, *a.shape[2:]), y)
        if not rest:
            return y
        last = f(self.rows(count * self.size, rest))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y, last)

    def rows(self, start, count: int) -> PyTree:
        """Return ``count`` examples from ``start`` on as one batch, in stored order."""
        rows = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=count)
        return self._transformed(jax.tree.map(rows, self.arrays))

    def stored(self) -> "Batches":
        """Return the same data in stored order."""
        return self.ordered(None)

    def ordered(self, key) -> "Batches":
        """Return the same data in the order that a key draws; traceable."""
        return Batches.tree_unflatten((self.size, self.transform), (self.arrays, key))

    def numbered(self) -> "Batches":
        """Return the same data, each batch as ``(batch, index)``: the places of its examples."""
        index = jnp.arange(self.examples, dtype=jnp.int32)
        transform = _of_first(self.transform)
        return Batches.tree_unflatten((self.size, transform), ((self.arrays, index), self.key))

    def _transformed(self, batch: PyTree) -> PyTree:
        return batch if self.transform is None else self.transform(batch)

    def tree_flatten_with_keys(self):
        """Split into leaves and static parts, for jax."""
        names = jax.tree_util.GetAttrKey("arrays"), jax.tree_util.GetAttrKey("key")
        return tuple(zip(names, (self.arrays, self.key))), (self.size, self.transform)

    @classmethod
    def tree_unflatten(cls, static, leaves) -> "Batches":
        """Put together what ``tree_flatten_with_keys`` split; nothing is checked again."""
        self = object.__new__(cls)
        self.arrays, self.key = leaves
        self.size, self.transform = static
        return self

    def __repr__(self):
        shapes = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", self.arrays)
        order = "stored" if self.key is None else "shuffled"
        return f"Batches({shapes}, size={self.size}, {order})"


@functools.cache  # the same function again, so that it compiles once
def _of_first(transform: Callable | None) -> Callable | None:
    return transform and (lambda pair: (transform(pair[0]), pair[1]))


def _divmod(step, size: int, n: int):
    """Divide ``step * size`` by n: epoch and place, without a product that overflows 32 bits."""
    epoch, place = step // n, step % n
    if n * size < 2**31:
        return epoch * size + place * size // n, place * size % n
    # double and add, bit by bit of size
    quotient, rest = jnp.int32(0), jnp.int32(0)
    for bit in format(size, "b"):
        twice = rest >= n - rest
        quotient, rest = 2 * quotient + twice, jnp.where(twice, rest - (n - rest), 2 * rest)
        if bit == "1":
            over = rest >= n - place
            quotient, rest = quotient + over, jnp.where(over, rest - (n - place), rest + place)
    return epoch * size + quotient, rest
