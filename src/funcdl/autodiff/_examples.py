"""The factors of a batch, block by block, so that they stay in the cache."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _mean, _tree
from funcdl._typing import Array, PyTree
from funcdl.autodiff._factors import Factors
from funcdl.autodiff._mixing import check_independent
from funcdl.autodiff._record import Program, program

_BLOCK_BYTES = 2**24  # of factors at a time


class Examples(NamedTuple):
    """What a block of n examples leaves.

    Attributes:
        loss: ``(n,)``.
        weight: ``(n,)``, 1 where the loss is no ``Mean``; 0 for padding of the block.
        leaves: The parameters.
        uses: For each parameter its factors at every site; ``None`` if it is not differentiated.
    """

    loss: Array
    weight: Array
    leaves: list[Array]
    uses: list[list[Factors] | None]

    def map(self, f: Callable) -> list:
        """Apply ``f(uses, parameter)`` to every parameter; ``None`` for what is no float."""
        return [x if x is None else f(x, leaf) for x, leaf in zip(self.uses, self.leaves)]


class Alone(NamedTuple):
    """A loss as a program of one example.

    Attributes:
        program: Of the leaves of params and of one example: loss and weight.
        example: The forms of the leaves of one example.
        axes: The axis of examples of each leaf of a batch, or ``None``.
    """

    program: Program
    example: list[jax.ShapeDtypeStruct]
    axes: list[int | None]


def alone(loss: Callable, params: PyTree, batch: PyTree) -> Alone:
    """Trace the loss of one example, which is that of the batch of one.

    Args:
        loss: ``loss(params, batch)``.
        params: Any pytree.
        batch: A pytree with a leading axis of examples.

    Returns:
        Its program.
    """
    leaves, treedef = jax.tree.flatten(batch)
    axes = [0 if jnp.ndim(x) else None for x in leaves]
    forms = [jax.ShapeDtypeStruct(jnp.shape(x)[1:], x.dtype) for x in map(jnp.asarray, leaves)]

    def one(params, example):
        rows = [x if axis is None else x[None] for x, axis in zip(example, axes)]
        batch = jax.tree.unflatten(treedef, rows)
        mean = _mean.weighted(loss(params, batch), batch)
        return mean.total / jnp.where(mean.weight == 0, 1, mean.weight), mean.weight

    return Alone(program(one, params, forms), forms, axes)


def over_blocks(
    f: Callable, loss: Callable, params: PyTree, batch: PyTree, *, whole: bool = False
) -> PyTree:
    """Apply ``f(Examples) -> tree`` to blocks of examples.

    Args:
        f: What is wanted of a block.
        loss: ``loss(params, batch)``.
        params: Any pytree.
        batch: A pytree with a leading axis of examples.
        whole: Whether all examples make one block.

    Returns:
        What ``f`` returned, with a leading axis of blocks; the last one is filled up with examples
        of weight 0.
    """
    check_independent(loss, params, batch)
    traced, example, axes = alone(loss, params, batch)
    n, data = _mean.examples(batch), list(map(jnp.asarray, jax.tree.leaves(batch)))
    parameters = jax.tree.leaves(params)

    def record(*example):
        (value, weight), pullback = traced.record(parameters, list(example))
        return value, weight, pullback((jnp.ones_like(value), jnp.zeros_like(weight)))

    def block(index):
        rows = [x if axis is None else x[index % n] for x, axis in zip(data, axes)]
        value, weight, factors = jax.vmap(record, axes, axis_size=len(index))(*rows)
        uses = [[] if _is_float(x) else None for x in parameters]
        for site, (a, g) in zip(traced.sites, factors):
            uses[site.leaf].append(Factors(site, _wide(a), _wide(g)))
        return f(Examples(value, jnp.where(index < n, weight, 0), parameters, uses))

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
