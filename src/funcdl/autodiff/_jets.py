"""Second-order jets: intermediate values that carry a first and a second derivative forward."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from funcdl._jaxpr import Equation


class Jet(NamedTuple):
    """An intermediate value with its derivatives along one or several directions.

    Attributes:
        value: The value.
        slope: The first derivative; several directions are a leading axis.
        bend: The second derivative, summed over the directions.
    """

    value: Any
    slope: Any
    bend: Any


def is_moving(operands: list) -> bool:
    """Whether an operand carries derivatives."""
    return any(isinstance(x, Jet) for x in operands)


def propagate(equation: Equation, operands: list, plainly: Callable, derive: Callable) -> list:
    """Propagate jets through one equation.

    Args:
        equation: The equation.
        operands: Jets and plain values.
        plainly: ``plainly(*values) -> list`` of results.
        derive: ``derive(h, u, slopes, bends) -> (slopes, bends)`` of the float results: ``h`` maps
            the list ``u`` of values that carry derivatives to the list of float results.

    Returns:
        Jets for the float results, plain values for the others.
    """
    moving = [i for i, x in enumerate(operands) if isinstance(x, Jet)]
    is_float = [jnp.issubdtype(v.aval.dtype, jnp.floating) for v in equation.outvars]

    def h(u: list) -> list:
        new = dict(zip(moving, u))
        results = plainly(*(new.get(i, x) for i, x in enumerate(operands)))
        return [y for y, real in zip(results, is_float) if real]

    u, slopes, bends = ([operands[i][k] for i in moving] for k in range(3))
    derivatives = iter(zip(*derive(h, u, slopes, bends)))
    plain = plainly(*(x.value if isinstance(x, Jet) else x for x in operands))
    return [Jet(y, *next(derivatives)) if real else y for y, real in zip(plain, is_float)]
