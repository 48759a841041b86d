"""The factors of a batch, block by block, so that they stay in the cache."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _batching, _tree
from funcdl._typing import Array, PyTree
from funcdl.per_example._factor_algebra import Factors
from funcdl.per_example._recording.record import Traced, traced

_BLOCK_BYTES = 2**24  # of factors at a time


class Examples(NamedTuple):
    """What a block of n examples leaves.

    Attributes:
        outputs: ``f(params, example)`` of each, a leading axis n.
        counts: ``(n,)``, false for what only fills the block up.
        leaves: The parameters.
        uses: For each parameter its factors at every site; ``None`` if it is not differentiated.
    """

    outputs: PyTree
    counts: Array
    leaves: list[Array]
    uses: list[list[Factors] | None]

    def map(self, f: Callable) -> list:
        """Apply ``f(uses, parameter)`` to every parameter; ``None`` for what is no float."""
        return [x if x is None else f(x, leaf) for x, leaf in zip(self.uses, self.leaves)]


class Alone(NamedTuple):
    """A function of a batch as a program of one example.

    Attributes:
        program: Of the leaves of params and of one example.
        example: The forms of the leaves of one example.
        axes: The axis of examples of each leaf of a batch, or ``None``.
    """

    program: Traced
    example: list[jax.ShapeDtypeStruct]
    axes: list[int | None]


def alone(f: Callable, params: PyTree, batch: PyTree) -> Alone:
    """Trace what a function does with one example: what it does with a batch of one.

    Args:
        f: ``f(params, batch) -> tree of float arrays``.
        params: Any pytree.
        batch: A pytree with a leading axis of examples.

    Returns:
        Its program.
    """
    leaves, treedef = jax.tree.flatten(batch)
    axes = [0 if jnp.ndim(x) else None for x in leaves]
    forms = [_batching.resized(x, 0) for x in leaves]
    forms = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in forms]

    def one(params, example):
        rows = [x if axis is None else x[None] for x, axis in zip(example, axes)]
        return f(params, jax.tree.unflatten(treedef, rows))

    return Alone(traced(one, params, forms), forms, axes)


class Pass(NamedTuple):
    """A function of a batch, and how far it is pulled back.

    Attributes:
        f: ``f(params, batch) -> tree of float arrays``, in which examples do not see each other.
        pull: ``pull(outputs, pullback) -> factors`` of one example.
    """

    f: Callable
    pull: Callable


def over_blocks(
    reduce: Callable, way: Pass, params: PyTree, batch: PyTree, *, whole: bool = False
) -> PyTree:
    """Apply ``reduce(Examples) -> tree`` to blocks of examples that stay in the cache.

    Args:
        reduce: What is wanted of a block.
        way: The function and its pullback.
        params: Any pytree.
        batch: A pytree with a leading axis of examples.
        whole: Whether all examples make one block.

    Returns:
        What ``reduce`` returned, with a leading axis of blocks; the last one is filled up with
        examples that do not count.
    """
    one, example, axes = alone(way.f, params, batch)
    n, data = _batching.examples(batch), list(map(jnp.asarray, jax.tree.leaves(batch)))
    parameters = jax.tree.leaves(params)

    def record(*example):
        outputs, pullback = one.record(parameters, list(example))
        return outputs, way.pull(outputs, pullback)

    def block(index):
        rows = [x if axis is None else x[index % n] for x, axis in zip(data, axes)]
        outputs, factors = jax.vmap(record, axes, axis_size=len(index))(*rows)
        uses = [[] if _is_float(x) else None for x in parameters]
        for site, (a, g) in zip(one.sites, factors):
            uses[site.leaf].append(Factors(site, _wide(a), _wide(g)))
        return reduce(Examples(outputs, index < n, parameters, uses))

    count = 1 if whole else _blocks(record, example, n)
    if count == 1:
        return jax.tree.map(lambda x: x[None], block(jnp.arange(n)))
    size = -(-n // count)
    return jax.lax.map(block, jnp.arange(count * size).reshape(count, size))


def _blocks(record: Callable, example: list, n: int) -> int:
    form = jax.eval_shape(record, *example)
    needed = n * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(form))
    return min(n, -(-needed // _BLOCK_BYTES))


def _is_float(x) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _wide(x: Array) -> Array:
    return x.astype(_tree.wide(x.dtype)) if _is_float(x) else x
