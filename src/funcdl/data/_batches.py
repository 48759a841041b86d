"""Batches of data in memory: a pure function from a step to a batch."""

import functools
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import check_key, integer
from funcdl._typing import Array, ArrayLike, Key, PyTree
from funcdl.data._checks import check
from funcdl.data._shuffle import shuffled


@jax.tree_util.register_pytree_with_keys_class
class Batches:
    """Arrays on the device that the pure function ``at(step)`` splits into batches.

    With a key, every epoch has its own order, which is drawn statelessly. Batches continue across
    the end of an epoch, so no batch is ragged and each example occurs once per epoch. ``key=None``
    gives the stored order. The class is a pytree whose leaves are the arrays and the key: pass it
    to ``jax.jit`` as an argument instead of closing over it.

    Args:
        arrays: A pytree of arrays with a leading axis of examples; their dtypes are kept.
        size: The number of examples in a batch.
        key: The key that draws the order, or ``None``.
        transform: A deterministic function ``transform(batch) -> batch`` that is applied to every
            batch, for example from uint8 to float. Use a module-level function, since each new
            function object causes a new compilation.

    Raises:
        DataError: If the data is empty, ragged or not finite.
        TypeError: If a leaf is not a numeric array, ``size`` is not an integer, or ``key`` is not a
            typed key.
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
        key: Key[Array, ""] | None = None,
        transform: Callable[[PyTree], PyTree] | None = None,
    ):
        examples = check(arrays)
        size = integer("size", size)
        if not 1 <= size <= examples:
            raise ValueError(
                f"size is {size}; expected 1 <= size <= {examples}, the number of examples"
            )
        if key is not None:
            check_key(key)
        self.arrays = jax.tree.map(jnp.asarray, arrays)
        self.key, self.size, self.transform = key, size, transform

    @property
    def examples(self) -> int:
        """The number of examples."""
        return jax.tree.leaves(self.arrays)[0].shape[0]

    @property
    def form(self) -> PyTree:
        """The shapes and dtypes of a batch, which is all that an ``init`` reads."""
        return jax.eval_shape(self.at, 0)

    def at(self, step: ArrayLike) -> PyTree:
        """Return the batch of a step, an integer from 0 to 2³¹ - 1; traceable.

        Raises:
            TypeError: If ``step`` is not an integer.
            ValueError: If a step that is not traced is out of range.
        """
        if not jnp.issubdtype(jnp.result_type(step), jnp.integer):
            raise TypeError(f"step has dtype {jnp.result_type(step)}; expected an integer")
        if isinstance(step, (int, np.integer)) and not 0 <= step < 2**31:
            raise ValueError(f"step is {step}; expected 0 <= step < 2**31")
        n = self.examples
        epoch, offset = _divmod(jnp.asarray(step, jnp.int32), self.size, n)
        positions = offset + jnp.arange(self.size, dtype=jnp.int32)
        epochs, positions = epoch + positions // n, positions % n
        index = positions if self.key is None else shuffled(self.key, epochs, positions, n)
        return self._transformed(jax.tree.map(lambda a: a[index], self.arrays))

    def steps(self, epochs: float | int) -> int:
        """Return the number of steps in which every example is seen ``epochs`` times."""
        return math.ceil(epochs * self.examples / self.size)

    def total(self, f: Callable[[PyTree], PyTree]) -> PyTree:
        """Sum ``f(batch)`` over all examples, each once, in stored order.

        Args:
            f: A function ``f(batch) -> sums`` that returns a pytree of sums (not means). It is
                called with batches of ``size`` under ``scan``, and then with the remaining
                examples.

        Returns:
            The sums.
        """
        count, remainder = divmod(self.examples, self.size)
        # jitted, so that eval_shape and scan share one trace of f
        at_index = jax.jit(lambda i: f(self.rows(i * self.size, self.size)))
        steps = jnp.arange(count)
        zeros = _tree.zeros(jax.eval_shape(at_index, steps[0]))
        add = lambda sums, i: (_tree.add(sums, at_index(i)), None)
        sums, _ = jax.lax.scan(add, zeros, steps)
        return _tree.add(sums, f(self.rows(count * self.size, remainder))) if remainder else sums

    def each(self, f: Callable[[PyTree], PyTree]) -> PyTree:
        """Apply ``f(batch)`` to all examples, each once, in stored order.

        Args:
            f: A function ``f(batch) -> y`` whose results have a leading axis of examples. It is
                called with the same batches as in ``total``.

        Returns:
            The results, concatenated in stored order.
        """
        count, remainder = divmod(self.examples, self.size)
        y = jax.lax.map(lambda i: f(self.rows(i * self.size, self.size)), jnp.arange(count))
        y = jax.tree.map(lambda a: a.reshape(count * self.size, *a.shape[2:]), y)
        if not remainder:
            return y
        last = f(self.rows(count * self.size, remainder))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y, last)

    def scan(self, f: Callable[[PyTree, PyTree], tuple], carry: PyTree) -> tuple[PyTree, PyTree]:
        """Carry a value over all examples, each once, in stored order.

        Args:
            f: A function ``f(carry, batch) -> (carry, y)`` whose ``y`` has a leading axis of
                examples. It is called with the same batches as in ``total``.
            carry: The first value of the carry.

        Returns:
            The last carry, and the results concatenated in stored order.
        """
        count, remainder = divmod(self.examples, self.size)
        step = lambda carry, i: f(carry, self.rows(i * self.size, self.size))
        carry, y = jax.lax.scan(step, carry, jnp.arange(count))
        y = jax.tree.map(lambda a: a.reshape(count * self.size, *a.shape[2:]), y)
        if not remainder:
            return carry, y
        carry, last = f(carry, self.rows(count * self.size, remainder))
        return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y, last)

    def take(self, index: ArrayLike) -> PyTree:
        """Return the examples with the given stored indices as one batch."""
        return self._transformed(jax.tree.map(lambda a: a[jnp.asarray(index)], self.arrays))

    def rows(self, start: ArrayLike, count: int) -> PyTree:
        """Return ``count`` examples from ``start`` on as one batch, in stored order."""
        rows = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=count)
        return self._transformed(jax.tree.map(rows, self.arrays))

    def stored(self) -> "Batches":
        """Return the same data in stored order."""
        return self.ordered(None)

    def ordered(self, key: Key[Array, ""] | None) -> "Batches":
        """Return the same data in the order that a key draws; traceable."""
        return Batches.tree_unflatten((self.size, self.transform), (self.arrays, key))

    def numbered(self) -> "Batches":
        """Return the same data with batches ``(batch, index)``, the stored indices of examples."""
        index = jnp.arange(self.examples, dtype=jnp.int32)
        transform = _of_first(self.transform)
        return Batches.tree_unflatten((self.size, transform), ((self.arrays, index), self.key))

    def _transformed(self, batch: PyTree) -> PyTree:
        return batch if self.transform is None else self.transform(batch)

    def tree_flatten_with_keys(self):
        """Split the object into leaves and static data for JAX."""
        names = jax.tree_util.GetAttrKey("arrays"), jax.tree_util.GetAttrKey("key")
        return tuple(zip(names, (self.arrays, self.key))), (self.size, self.transform)

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: Iterable[Any]) -> "Batches":
        """Rebuild the object from leaves and static data, without any checks."""
        self = object.__new__(cls)
        self.arrays, self.key = leaves
        self.size, self.transform = static
        return self

    def __repr__(self):
        form = lambda a: f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else repr(a)
        shapes = jax.tree.map(form, self.arrays)  # jax also puts placeholders into the leaves
        order = "stored" if self.key is None else "shuffled"
        return f"Batches({shapes}, size={self.size}, {order})"


@functools.cache  # returns the same function object each time, so that it compiles once
def _of_first(transform: Callable | None) -> Callable | None:
    return transform and (lambda pair: (transform(pair[0]), pair[1]))


def _divmod(step: Array, size: int, n: int) -> tuple[Array, Array]:
    """Divide ``step * size`` by n into epoch and offset, without overflow in 32 bits."""
    epoch, offset = step // n, step % n
    if n * size < 2**31:
        return epoch * size + offset * size // n, offset * size % n
    # The product offset * size is built by doubling and adding over the bits of size. The invariant
    # is product = quotient * n + remainder with 0 <= remainder < n, and each comparison is written
    # so that no intermediate value exceeds n.
    quotient, remainder = jnp.int32(0), jnp.int32(0)
    for bit in format(size, "b"):
        wraps = remainder >= n - remainder
        quotient = 2 * quotient + wraps
        remainder = jnp.where(wraps, remainder - (n - remainder), 2 * remainder)
        if bit == "1":
            wraps = remainder >= n - offset
            quotient = quotient + wraps
            remainder = jnp.where(wraps, remainder - (n - offset), remainder + offset)
    return epoch * size + quotient, remainder
