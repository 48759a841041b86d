"""Synchronization between the processes of one run; all of it is trivial for one process."""

from typing import Any

import jax
import numpy as np


def leads() -> bool:
    """Tell whether this is the first process, which writes the files that are written once."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Wait until all processes have reached the barrier of this name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def agreed(number: int) -> int:
    """Broadcast a number from the first process to all processes."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def is_spread(value: Any) -> bool:
    """Tell whether a part of an array is on devices of other processes."""
    return not getattr(value, "is_fully_addressable", True)


def gathered(value: Any) -> np.ndarray:
    """Return the whole array in every process."""
    if not is_spread(value):
        return np.asarray(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))
