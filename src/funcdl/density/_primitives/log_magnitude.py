"""A value as a product with an exponential, read from the equation that computed the value."""

import jax.numpy as jnp

from funcdl.density._primitives.local_jacobian import Local, widened
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
    value = widened(values[operand] if isinstance(operand, Variable) else operand)
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
        operands = tuple(map(widened, operands))
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


def _keeps_values(equation: Equation) -> bool:
    """Tell whether an operation that moves numbers leaves each as it is."""
    if equation.name == "reduce_precision":
        return False
    if equation.name == "convert_element_type":
        before, after = equation.operands[0].dtype, equation.results[0].dtype
        return equation.results[0].is_real and jnp.promote_types(before, after) == after
    return equation.eqn.params.get("fill_value") is None


def _moved(equation: Equation, slope: Slope, values: dict) -> Slope:
    """Move a product like the equation moves its first operand, factor by factor."""
    # an operation that rounds the value, or fills in a constant, would do the same to the exponent
    if slope.log is None or record(equation.name).sources != (0,) or not _keeps_values(equation):
        return Slope()
    if record(equation.name).in_place:
        return slope
    others = [values[o] if isinstance(o, Variable) else o for o in equation.operands[1:]]
    shape = equation.operands[0].shape
    moved = lambda x: equation.evaluate(x, *others)[0]

    def move(x):
        # in two parts, since the exponent of a value of 16 bits has more digits than the value
        x = jnp.broadcast_to(x, shape)
        high = x.astype(equation.operands[0].dtype)
        if high.dtype == x.dtype:
            return moved(x)
        low = (x - high.astype(x.dtype)).astype(high.dtype)
        return moved(high).astype(x.dtype) + moved(low).astype(x.dtype)

    factors = tuple((f if isinstance(f, float) else move(f), k) for f, k in slope.factors)
    return Slope(factors, move(slope.log))
