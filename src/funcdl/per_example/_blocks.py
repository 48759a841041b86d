"""The factors of a batch, block by block, so that they stay in the cache."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _batching, _tree
from funcdl._typing import Array, ArrayLike, PyTree
from funcdl.per_example._factor_algebra import Factors
from funcdl.per_example._recording.backward_pass import Traced, traced

_BLOCK_BYTES = 2**24  # the size of the factors held at a time


class Examples(NamedTuple):
    """The results of a block of n examples.

    Attributes:
        outputs: ``f(params, example)`` of each example, with a leading axis n.
        counts: ``(n,)``, false for examples that only fill up the block.
        leaves: The parameters.
        uses: For each parameter, its factors at every site; ``None`` if it is not differentiated.
    """

    outputs: PyTree
    counts: Array
    leaves: list[Array]
    uses: list[list[Factors] | None]

    def map(self, f: Callable) -> list:
        """Apply ``f(uses, parameter)`` to every parameter; leaves without factors give ``None``."""
        return [x if x is None else f(x, leaf) for x, leaf in zip(self.uses, self.leaves)]


class Alone(NamedTuple):
    """A function of a batch as a program of one example.

    Attributes:
        program: The program, which takes the leaves of params and of one example.
        example: The shapes and dtypes of the leaves of one example.
        axes: The axis of examples of each leaf of a batch, or ``None``.
    """

    program: Traced
    example: list[jax.ShapeDtypeStruct]
    axes: list[int | None]


def alone(f: Callable, params: PyTree, batch: PyTree) -> Alone:
    """Trace the operations of a function on one example, which it receives as a batch of one.

    Args:
        f: ``f(params, batch) -> tree of float arrays``.
        params: Any pytree.
        batch: A pytree with a leading axis of examples.

    Returns:
        The function as a program of one example.
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
    """A function of a batch, and the way in which it is pulled back.

    Attributes:
        f: ``f(params, batch) -> tree of float arrays``, in which examples do not interact.
        pull: ``pull(outputs, pullback) -> factors`` of one example.
    """

    f: Callable
    pull: Callable


def over_blocks(
    reduce: Callable, way: Pass, params: PyTree, batch: PyTree, *, whole: bool = False
) -> PyTree:
    """Apply ``reduce(Examples) -> tree`` to blocks of examples that stay in the cache.

    Args:
        reduce: The function of a block of examples.
        way: The function and its pullback.
        params: Any pytree.
        batch: A pytree with a leading axis of examples.
        whole: Whether all examples form one block.

    Returns:
        The results of ``reduce``, with a leading axis of blocks; the last block is filled up with
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
        uses = {i: [] for i, x in enumerate(parameters) if _is_float(x)}
        for site, (a, g) in zip(one.sites, factors):
            uses[site.leaf].append(Factors(site, *_tree.widened((a, g))))
        factors_of = [uses.get(i) for i in range(len(parameters))]
        return reduce(Examples(outputs, index < n, parameters, factors_of))

    count = 1 if whole else _blocks(record, example, n)
    if count == 1:
        return jax.tree.map(lambda x: x[None], block(jnp.arange(n)))
    size = -(-n // count)
    return jax.lax.map(block, jnp.arange(count * size).reshape(count, size))


def _blocks(record: Callable, example: list, n: int) -> int:
    form = jax.eval_shape(record, *example)
    needed = n * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(form))
    return min(n, -(-needed // _BLOCK_BYTES))


def _is_float(x: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
