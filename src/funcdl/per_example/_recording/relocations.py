"""Operations that put the numbers of a parameter elsewhere, and change none of them."""

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.per_example._recording.sites import Alias, Tapped, as_one_row, site


def moved(equation, operands, plainly) -> Alias | Tapped | None:
    """Follow a parameter that is reshaped, transposed, cast, cut or padded with zeros."""
    x, *others = operands
    if not isinstance(x, Alias) or any(isinstance(y, Alias) for y in others):
        return None
    if any(not _is_zero(y) for y in others):
        return None
    if not jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating):
        return None  # no linear function of real numbers
    if equation.outvars[0].aval.size > x.value.size and not others:
        return _spread(equation, x, plainly)
    move = lambda value: plainly(value, *others)[0]
    place = lambda leaf, before=x.place: move(before(leaf))
    # the derivative in a zero that was put in is none of the parameter
    injective = x.injective and not others
    return x._replace(value=move(x.value), place=place, injective=injective)


def _is_zero(x) -> bool:
    try:
        return bool(np.all(np.asarray(x) == 0))
    except jax.errors.TracerArrayConversionError:
        return False


def _spread(equation, x: Alias, plainly) -> Tapped:
    """Tap a bias after it was repeated: its gradient is summed over the positions at once."""
    value = plainly(x.value)[0]

    def factors(_inputs, g):
        back = jax.linear_transpose(lambda v: plainly(v)[0], x.value)
        return as_one_row((), back(g)[0])

    shape = x.value.shape
    unfold = lambda y: y.reshape(shape)
    return Tapped(value, (), site(x, equation, "broadcast", value, factors, unfold))


def joined(_equation, operands, plainly) -> Alias | None:
    """Follow a parameter of which pieces are put together again; none may be of another one."""
    if len({x.leaf if isinstance(x, Alias) else None for x in operands}) != 1:
        return None
    places = [x.place for x in operands]
    place = lambda leaf: plainly(*(place(leaf) for place in places))[0]
    value = plainly(*(x.value for x in operands))[0]
    return Alias(value, operands[0].leaf, place, injective=False)
