"""A value as a product with an exponential, read from the equation that computed the value."""

import jax.numpy as jnp

from funcdl.density._primitives.local_jacobian import Local
from funcdl.density._primitives.slope import Slope
from funcdl.density._primitives.table import is_move, record
from funcdl.density._program.program import Equation, Operand, Variable


def local(equation: Equation, values: dict, origin: dict) -> Local:
    """Collect the values from which the slopes of an equation are computed."""
    operands = tuple(values[o] if isinstance(o, Variable) else o for o in equation.operands)
    return Local(
        operands,
        values[equation.results[0]],
        lambda at: magnitude(equation.operands[at], values, origin),
    )


def magnitude(operand: Operand, values: dict, origin: dict) -> Slope:
    """Write a value as a product that keeps the exponent of an exponential.

    The logarithm of ``a * exp(s)`` is then ``log(a) + s``, even where ``exp(s)`` underflows.

    Args:
        operand: A variable or a constant.
        values: The values of the variables.
        origin: The equation that computes each variable.

    Returns:
        A slope that equals the value.
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
    """Move a product like the equation moves its first operand, factor by factor."""
    if slope.log is None or record(equation.name).sources != (0,):
        return Slope()
    others = [values[o] if isinstance(o, Variable) else o for o in equation.operands[1:]]
    shape, dtype = equation.operands[0].shape, equation.operands[0].dtype

    def move(x):
        return equation.evaluate(jnp.broadcast_to(x, shape).astype(dtype), *others)[0]

    factors = tuple((f if isinstance(f, float) else move(f), k) for f, k in slope.factors)
    return Slope(factors, move(slope.log))
