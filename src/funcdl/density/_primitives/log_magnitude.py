"""A value as a product with an exponential, read from the step that computed it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import Array
from funcdl.density._primitives.derivatives import Slope, product
from funcdl.density._program.constants import STRUCTURAL
from funcdl.density._program.program import Slot, Step


class Local(NamedTuple):
    """What the slope of a step is computed from.

    Attributes:
        operands: Values.
        result: Value of the first result.
        magnitude: ``position of an operand -> Slope`` that equals its value.
    """

    operands: tuple
    result: Array
    magnitude: Callable


def local(step: Step, values: dict, origin: dict) -> Local:
    """Collect the values around a step."""
    operands = tuple(values[o] if isinstance(o, Slot) else o for o in step.operands)
    return Local(
        operands, values[step.results[0]], lambda at: magnitude(step.operands[at], values, origin)
    )


def magnitude(operand, values: dict, origin: dict) -> Slope:
    """Write a value so that the logarithm of an exponential is not taken again.

    Args:
        operand: A slot or a constant.
        values: Of the slots.
        origin: The step that computes each slot.

    Returns:
        A product that equals the value.
    """
    value = values[operand] if isinstance(operand, Slot) else operand
    step = origin.get(operand) if isinstance(operand, Slot) else None
    plain = Slope(((value, 1),))
    if step is None or not step.operands or not all(o in values for o in step.slots):
        return plain
    first = step.operands[0]
    x = values[first] if isinstance(first, Slot) else first
    if step.name == "exp":
        return Slope(log=x)
    if step.name == "logistic":
        return Slope(log=-jax.nn.softplus(-x))
    if step.name in ("mul", "div"):
        other = magnitude(step.operands[1], values, origin)
        found = product(
            magnitude(first, values, origin), other if step.name == "mul" else _inverse(other)
        )
    elif step.name == "neg":
        found = product(Slope(((-1.0, 1),)), magnitude(first, values, origin))
    elif (
        step.name in STRUCTURAL
        and len([o for o in step.slots if o.is_float]) == 1 == len(step.results)
        and isinstance(first, Slot)
        and first.is_float
    ):
        found = _moved(step, magnitude(first, values, origin), values)
    else:
        return plain
    return found if found.log is not None else plain


def _inverse(slope: Slope) -> Slope:
    factors = tuple((f, -k) for f, k in slope.factors)
    return Slope(factors, None if slope.log is None else -slope.log)


def _moved(step: Step, slope: Slope, values: dict) -> Slope:
    if slope.log is None or step.name in ("pad", "dynamic_update_slice", "scatter", "concatenate"):
        return Slope()
    rest = [values[o] if isinstance(o, Slot) else o for o in step.operands[1:]]
    shape, dtype = step.operands[0].shape, step.operands[0].dtype

    def move(x):
        return step.evaluate(jnp.broadcast_to(x, shape).astype(dtype), *rest)[0]

    factors = tuple((f if isinstance(f, float) else move(f), k) for f, k in slope.factors)
    return Slope(factors, move(slope.log))
