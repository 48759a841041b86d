"""The same data in several orders at once, for the lanes of an ensemble or a sweep."""

from typing import NamedTuple

import jax

from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree
from funcdl.data._batches import Batches


class PerLane(NamedTuple):
    """A batch for every lane.

    Attributes:
        batch: Its leaves have a leading axis of lanes.
    """

    batch: PyTree


class Orders(NamedTuple):
    """What ``orders`` returns: ``at(step)`` gives ``PerLane``.

    Attributes:
        batches: The data.
        keys: ``(n,)``, the order of each lane.
    """

    batches: Batches
    keys: Key[Array, " n"]

    @property
    def form(self) -> PyTree:
        """The shapes and dtypes of a batch, with the axis of lanes."""
        return jax.eval_shape(self.at, 0)

    def at(self, step) -> PerLane:
        """Return the batches of a step, one a lane."""
        one = lambda key: self.batches.ordered(key).at(step)
        return PerLane(jax.vmap(one)(self.keys))

    def steps(self, epochs: float | int) -> int:
        """Count the steps after which every lane saw each example ``epochs`` times."""
        return self.batches.steps(epochs)


def orders(batches: Batches, keys: Key[Array, " n"]) -> Orders:
    """Give each lane of an ensemble or a sweep its own order of the data.

    Args:
        batches: The data, held once.
        keys: One a lane; lanes with the same key see the same batches.

    Returns:
        Data for ``fit``: ``at(step)`` gives ``PerLane``.

    Raises:
        TypeError: If the keys are not typed.
        ValueError: If they have not one axis.

    >>> import jax.numpy as jnp
    >>> many = orders(Batches(jnp.arange(6), 2), jax.random.split(jax.random.key(0), 3))
    >>> many.at(0).batch.shape
    (3, 2)
    """
    check_key(keys)
    if keys.ndim != 1:
        raise ValueError(f"keys has shape {keys.shape}; expected one key a lane, (n,)")
    return Orders(batches, keys)
