"""The same data in several orders at once, for the lanes of an ensemble or a sweep."""

from typing import NamedTuple

import jax

from funcdl._check import check_key
from funcdl._typing import Array, ArrayLike, Key, PyTree
from funcdl.data._batches import Batches


class PerLane(NamedTuple):
    """One batch for each lane.

    Attributes:
        batch: The batches, stacked along a leading axis of lanes.
    """

    batch: PyTree


class Orders(NamedTuple):
    """Data in one order per lane; ``at(step)`` returns a ``PerLane``.

    Attributes:
        batches: The data.
        keys: ``(n,)``, the keys that draw the order of each lane.
    """

    batches: Batches
    keys: Key[Array, " n"]

    @property
    def form(self) -> PyTree:
        """The shapes and dtypes of a batch, with the axis of lanes."""
        return jax.eval_shape(self.at, 0)

    def at(self, step: ArrayLike) -> PerLane:
        """Return the batches of a step, one per lane."""
        one = lambda key: self.batches.ordered(key).at(step)
        return PerLane(jax.vmap(one)(self.keys))

    def steps(self, epochs: float | int) -> int:
        """Return the number of steps in which every lane sees each example ``epochs`` times."""
        return self.batches.steps(epochs)


def orders(batches: Batches, keys: Key[Array, " n"]) -> Orders:
    """Give each lane of an ensemble or a sweep its own order of the data.

    Args:
        batches: The data, which is stored once for all lanes.
        keys: One key per lane; lanes with the same key see the same batches.

    Returns:
        Data for ``fit``, whose ``at(step)`` returns a ``PerLane``.

    Raises:
        TypeError: If the keys are not typed.
        ValueError: If the keys do not have exactly one axis.

    >>> import jax.numpy as jnp
    >>> many = orders(Batches(jnp.arange(6), 2), jax.random.split(jax.random.key(0), 3))
    >>> many.at(0).batch.shape
    (3, 2)
    """
    check_key(keys)
    if keys.ndim != 1:
        raise ValueError(f"keys has shape {keys.shape}; expected one key per lane, (n,)")
    return Orders(batches, keys)
