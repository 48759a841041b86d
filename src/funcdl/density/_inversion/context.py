"""What inversion by propagation works on."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from funcdl.density._program.program import Segment, Slot


class Setting(NamedTuple):
    """What a schedule is made from.

    Attributes:
        segment: The segment.
        dynamic: Slots that depend on x.
        reads_of: ``step -> reads``.
        bounds: ``operand -> interval``.
        facts: Constants and supports.
        lift: ``(step, places, made) -> Lifted | None``.
    """

    segment: Segment
    dynamic: set
    reads_of: Callable
    bounds: Callable
    facts: object
    lift: Callable


def value_of(values: dict, operand):
    """An operand's value; where nothing is known of it yet, what few functions are singular at."""
    if not isinstance(operand, Slot):
        return operand
    return values[operand] if operand in values else jnp.full(operand.shape, 0.5, operand.dtype)


def is_known(operand, setting: Setting, known: dict) -> np.ndarray:
    """Which numbers of an operand are known."""
    if not isinstance(operand, Slot):
        return np.ones(np.shape(operand), bool)
    if operand not in setting.dynamic:
        return np.ones(operand.shape, bool)
    return known.get(operand, np.zeros(operand.shape, bool))
