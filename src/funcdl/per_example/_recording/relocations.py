"""Operations that move the entries of a parameter without changing them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import Equation
from funcdl.per_example._recording.sites import Alias, Tapped, as_one_row, site


def moved(equation: Equation, operands: list, plainly: Callable) -> Alias | Tapped | None:
    """Follow a parameter that is reshaped, transposed, cast, cut or padded with zeros."""
    x, *others = operands
    if not isinstance(x, Alias) or any(isinstance(y, Alias) for y in others):
        return None
    if any(not _is_zero(y) for y in others):
        return None
    if not jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating):
        return None  # not a linear function of real numbers
    if equation.outvars[0].aval.size > x.value.size and not others:
        return _spread(equation, x, plainly)
    move = lambda value: plainly(value, *others)[0]
    place = lambda leaf, before=x.place: move(before(leaf))
    # the derivative in an inserted zero does not belong to the parameter
    injective = x.injective and not others
    return x._replace(value=move(x.value), place=place, injective=injective)


def _is_zero(x: Any) -> bool:
    try:
        return bool(np.all(np.asarray(x) == 0))
    except jax.errors.TracerArrayConversionError:
        return False


def _spread(equation: Equation, x: Alias, plainly: Callable) -> Tapped:
    """Record a bias after it was repeated, so that positions are summed at once."""
    value = plainly(x.value)[0]

    def factors(_inputs, g):
        back = jax.linear_transpose(lambda v: plainly(v)[0], x.value)
        return as_one_row((), back(g)[0])

    shape = x.value.shape
    unfold = lambda y: y.reshape(shape)
    return Tapped(value, (), site(x, equation, "broadcast", value, factors, unfold))


def joined(_equation: Equation, operands: list, plainly: Callable) -> Alias | None:
    """Follow a parameter whose pieces are joined again, without pieces of another parameter."""
    if len({x.leaf if isinstance(x, Alias) else None for x in operands}) != 1:
        return None
    places = [x.place for x in operands]
    place = lambda leaf: plainly(*(place(leaf) for place in places))[0]
    value = plainly(*(x.value for x in operands))[0]
    return Alias(value, operands[0].leaf, place, injective=False)
