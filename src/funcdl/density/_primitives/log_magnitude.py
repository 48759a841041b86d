"""A value as a product with an exponential, read from the step that computed it."""

import jax.numpy as jnp

from funcdl.density._primitives.edges import Local
from funcdl.density._primitives.slope import Slope
from funcdl.density._primitives.table import is_move, record
from funcdl.density._program.program import Slot, Step


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
    rule = record(step.name).magnitude
    if rule is not None:
        operands = tuple(values[o] if isinstance(o, Slot) else o for o in step.operands)
        slope = rule(operands, lambda at: magnitude(step.operands[at], values, origin))
    elif _moves_one_array(step):
        slope = _moved(step, magnitude(step.operands[0], values, origin), values)
    else:
        return plain
    return slope if slope.log is not None else plain


def _moves_one_array(step: Step) -> bool:
    first = step.operands[0]
    floats = [o for o in step.slots if o.is_float]
    moving = is_move(step.name) and len(floats) == 1 == len(step.results)
    return moving and isinstance(first, Slot) and first.is_float


def _moved(step: Step, slope: Slope, values: dict) -> Slope:
    if slope.log is None or record(step.name).sources != (0,):
        return Slope()
    others = [values[o] if isinstance(o, Slot) else o for o in step.operands[1:]]
    shape, dtype = step.operands[0].shape, step.operands[0].dtype

    def move(x):
        return step.evaluate(jnp.broadcast_to(x, shape).astype(dtype), *others)[0]

    factors = tuple((f if isinstance(f, float) else move(f), k) for f, k in slope.factors)
    return Slope(factors, move(slope.log))
