"""A value as a product with an exponential, read from the equation that computed it."""

import jax.numpy as jnp

from funcdl.density._primitives.local_jacobian import Local
from funcdl.density._primitives.slope import Slope
from funcdl.density._primitives.table import is_move, record
from funcdl.density._program.program import Equation, Variable


def local(equation: Equation, values: dict, origin: dict) -> Local:
    """Collect the values around an equation."""
    operands = tuple(values[o] if isinstance(o, Variable) else o for o in equation.operands)
    return Local(
        operands,
        values[equation.results[0]],
        lambda at: magnitude(equation.operands[at], values, origin),
    )


def magnitude(operand, values: dict, origin: dict) -> Slope:
    """Write a value so that the logarithm of an exponential is not taken again.

    Args:
        operand: A variable or a constant.
        values: Of the variables.
        origin: The equation that computes each variable.

    Returns:
        A product that equals the value.
    """
    value = values[operand] if isinstance(operand, Variable) else operand
    equation = origin.get(operand) if isinstance(operand, Variable) else None
    plain = Slope(((value, 1),))
    if (
        equation is None
        or not equation.operands
        or not all(o in values for o in equation.variables)
    ):
        return plain
    rule = record(equation.name).magnitude
    if rule is not None:
        operands = tuple(values[o] if isinstance(o, Variable) else o for o in equation.operands)
        slope = rule(operands, lambda at: magnitude(equation.operands[at], values, origin))
    elif _moves_one_array(equation):
        slope = _moved(equation, magnitude(equation.operands[0], values, origin), values)
    else:
        return plain
    return slope if slope.log is not None else plain


def _moves_one_array(equation: Equation) -> bool:
    first = equation.operands[0]
    floats = [o for o in equation.variables if o.is_float]
    moving = is_move(equation.name) and len(floats) == 1 == len(equation.results)
    return moving and isinstance(first, Variable) and first.is_float


def _moved(equation: Equation, slope: Slope, values: dict) -> Slope:
    if slope.log is None or record(equation.name).sources != (0,):
        return Slope()
    others = [values[o] if isinstance(o, Variable) else o for o in equation.operands[1:]]
    shape, dtype = equation.operands[0].shape, equation.operands[0].dtype

    def move(x):
        return equation.evaluate(jnp.broadcast_to(x, shape).astype(dtype), *others)[0]

    factors = tuple((f if isinstance(f, float) else move(f), k) for f, k in slope.factors)
    return Slope(factors, move(slope.log))
