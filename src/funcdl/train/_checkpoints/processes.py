"""What several processes of one run do together; with one process, nothing."""

import jax
import numpy as np


def leads() -> bool:
    """Tell whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def agreed(number: int) -> int:
    """Return the number that the first process has."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def is_spread(value) -> bool:
    """Tell whether some of an array lies on devices of other processes."""
    return not getattr(value, "is_fully_addressable", True)


def gathered(value) -> np.ndarray:
    """Return all of an array in every process."""
    if not is_spread(value):
        return np.asarray(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))
