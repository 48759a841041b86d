"""One interface to one batch of arrays, ``Batches``, and streams of batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, PyTree

SIZES = 2, 3, 4, 6  # batch sizes at which functions are traced, to see how they treat examples


def examples(batch: PyTree) -> int:
    """Count the examples of a batch: the common leading axis of its leaves, or 1 without one.

    Returns:
        The number of examples.

    Raises:
        ValueError: If two leaves have different leading axes.
    """
    counts = {
        _tree.path_text(path): jnp.shape(leaf)[0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
        if jnp.ndim(leaf)
    }
    if len(set(counts.values())) > 1:
        raise ValueError(f"leaves of one batch have different numbers of examples: {counts}")
    return next(iter(counts.values()), 1)


def is_many(data: PyTree) -> bool:
    """Check for ``Batches`` (``Mean`` has a ``total`` too, but that is not callable)."""
    return callable(getattr(data, "total", None))


def total(f: Callable, data: PyTree) -> PyTree:
    """Sum ``f(batch)`` over one batch of arrays, or over ``Batches``, each example once."""
    return data.total(f) if is_many(data) else f(data)


def is_stream(data: Any) -> bool:
    """Check for an iterable of batches, such as a loader, as opposed to data in memory."""
    if isinstance(data, Iterator):
        return True
    if not isinstance(data, Iterable) or hasattr(data, "shape"):
        return False
    leaves = jax.tree.leaves(data)
    return len(leaves) == 1 and leaves[0] is data  # not a container that jax knows


def first(data: PyTree) -> PyTree:
    """Return the first batch of a stream, and other data unchanged.

    Returns:
        Data in memory.

    Raises:
        ValueError: If a stream has no batch.
        TypeError: If a stream cannot be read again.
    """
    if not is_stream(data):
        return data
    if isinstance(data, Iterator):
        raise TypeError(
            f"data is a {type(data).__name__}, which can be read only once; expected an iterable "
            "that starts again at each pass, such as a loader or a list of batches in a class"
        )
    for batch in data:
        return batch
    raise ValueError("data has no examples: the stream ended before its first batch")


def forms(data: PyTree) -> list[PyTree]:
    """List the distinct structures of the batches: all are alike except for a ragged tail.

    Returns:
        Trees of ``jax.ShapeDtypeStruct``.

    Raises:
        TypeError: If the data are a stream.
        ValueError: If the data are empty.
    """
    if is_stream(data):
        raise TypeError(
            f"data is a {type(data).__name__}, a stream; expected one batch of arrays, or Batches "
            "(hessian, ggn and the Fisher matrices also take a stream, for host solvers)"
        )
    seen = []

    def note(batch):
        seen.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch))
        return jnp.zeros(())

    jax.eval_shape(lambda data: total(note, data), data)
    if jax.tree.leaves(seen[0]) and not examples(seen[0]):
        raise ValueError("data has no examples")
    return seen


def each(f: Callable, data: PyTree) -> PyTree:
    """Apply ``f(batch)``, which returns a leading axis of examples, to one batch or ``Batches``."""
    return data.each(f) if is_many(data) else f(data)


def numbered(data: PyTree) -> PyTree:
    """Number the examples: each batch becomes ``(batch, indices)`` with ``(b,)`` integers."""
    if is_stream(data):
        return _Numbered(data)
    if is_many(data):
        return data.numbered()
    return data, jnp.arange(examples(data), dtype=jnp.int32)


class _Numbered:
    """A stream of ``(batch, indices)``."""

    def __init__(self, stream: Iterable):
        self.stream = stream

    def __iter__(self) -> Iterator[tuple[PyTree, Array]]:
        start = 0
        for batch in self.stream:
            count = examples(batch)
            yield batch, jnp.arange(start, start + count, dtype=jnp.int32)
            start += count


def one_by_one(f: Callable, batch: PyTree) -> PyTree:
    """Apply ``f``, which takes a batch of one, to every example; results are stacked."""
    leaves, treedef = jax.tree.flatten(batch)
    axes = [0 if jnp.ndim(x) else None for x in leaves]

    def one(*rows):
        rows = [x if axis is None else x[None] for x, axis in zip(rows, axes)]
        return f(jax.tree.unflatten(treedef, rows))

    return jax.vmap(one, axes, axis_size=examples(batch))(*leaves)


def resized(batch: PyTree, size: int) -> PyTree:
    """Return the structure of a batch, with another number of examples."""

    def form(x):
        shape = jnp.shape(x)
        dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
        return jax.ShapeDtypeStruct((size, *shape[1:]) if shape else (), dtype)

    return jax.tree.map(form, batch)
