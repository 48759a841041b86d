"""Metrics that are not means over examples, as three pure functions that merge over batches."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._batching import examples
from funcdl._typing import Array, PyTree
from funcdl.operators import Estimate


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Statistic:
    """A metric that is not a mean over examples, such as the area under a curve.

    Pass it to ``train.supervised`` as a metric: ``train.evaluate`` then updates its state batch by
    batch, so the result is that of all examples together and does not depend on the split. A
    training step does not report it. Called with arrays, it measures them: ``auc(scores, labels)``.

    Attributes:
        init: ``init(outputs, *targets) -> state``, the state before the first batch. It reads only
            shapes; the leading axis counts all examples that will come.
        update: ``update(state, outputs, *targets) -> state`` adds the examples of a batch.
        result: ``result(state) -> Estimate``, the value with its standard error.

    >>> total = Statistic(
    ...     init=lambda outputs: jnp.zeros(()),
    ...     update=lambda state, outputs: jnp.maximum(state, outputs.max()),
    ...     result=lambda state: Estimate(state, jnp.nan),
    ... )
    >>> total(jnp.asarray([1.0, 3.0, 2.0])).value.item()
    3.0
    """

    init: Callable[..., PyTree]
    update: Callable[..., PyTree]
    result: Callable[[PyTree], Estimate]

    def __call__(self, outputs: PyTree, *targets: PyTree) -> Estimate:
        arguments = jax.tree.map(jnp.asarray, (outputs, *targets))
        return self.result(self.update(self.init(*arguments), *arguments))


@partial(jax.tree_util.register_dataclass, data_fields=["arguments"], meta_fields=["statistic"])
@dataclasses.dataclass(frozen=True)
class Measured:
    """The arguments of a statistic on one batch, in place of the value of a metric."""

    statistic: Statistic
    arguments: tuple


class Collected(NamedTuple):
    """A state that keeps one row per example.

    Attributes:
        rows: A tree with a leading axis of all examples; rows that have not come yet are 0.
        count: The number of examples that have come.
    """

    rows: PyTree
    count: Array


def collecting(
    rows: Callable[..., PyTree], value: Callable[[PyTree], tuple[Array, Array]]
) -> Statistic:
    """Build a statistic that keeps a few numbers of each example and needs all of them at the end.

    Args:
        rows: ``rows(outputs, *targets) -> tree`` with a leading axis of examples; a row of zeros
            must not change the value.
        value: ``value(rows) -> (value, stderr)``.

    Returns:
        The statistic. Its value is NaN if more examples come than ``init`` was told.
    """

    def init(*arguments) -> Collected:
        return Collected(_tree.zeros(jax.eval_shape(rows, *arguments)), jnp.int32(0))

    def update(state: Collected, *arguments) -> Collected:
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.count, axis=0)
        new = jax.tree.map(write, state.rows, rows(*arguments))
        return Collected(new, state.count + examples(arguments))

    def result(state: Collected) -> Estimate:
        fits = state.count <= examples(state.rows)
        return Estimate(*(jnp.where(fits, x, jnp.nan) for x in value(state.rows)))

    return Statistic(init, update, result)


def weights_like(weights: Any, shape: tuple[int, ...]) -> Array:
    """Return the weights of the entries of a batch, 1 by default.

    Raises:
        ValueError: If they have another shape.
    """
    if weights is None:
        return jnp.ones(shape)
    weights = jnp.asarray(weights)
    if weights.shape != shape:
        raise ValueError(
            f"weights have shape {weights.shape}; expected {shape}, one weight for each label"
        )
    return weights.astype(_tree.wide(jnp.result_type(weights, jnp.float32)))
