r"""Sites: the places in a jaxpr at which the derivative in a parameter splits into two factors.

A parameter enters a computation through operations that are linear in it. Where such an operation
is a matrix product (dense layer, einsum, attention, convolution, a row of a table), the gradient of
one example is :math:`a^\top g`: ``a`` is the array that the parameter was multiplied by, and ``g``
the derivative in the product. Both come from one backward pass over all examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _source
from funcdl._jaxpr import Equation
from funcdl._typing import Array


class Alias(NamedTuple):
    """A value that is a linear function of one parameter."""

    value: Array
    leaf: int  # the index of the parameter
    place: Callable  # value = place(parameter), linear
    injective: bool  # whether each entry is one entry of the parameter, and none occurs twice


class Site(NamedTuple):
    r"""One use of a parameter; static.

    The gradient of one example is ``place^T(unfold(a^T g))`` with
    ``a, g = factors(inputs, cotangent)`` of shapes ``(B, t, in)`` and ``(B, t, out)``: t positions
    share the parameter, and B matrices are stacked. For a table whose rows are looked up, ``a``
    holds the row indices, integers ``(B, t)``.
    """

    leaf: int
    place: Callable
    injective: bool
    rule: str
    where: str
    numbers: int  # B * in * out
    form: jax.ShapeDtypeStruct  # of the operation's result, in which it is differentiated
    factors: Callable
    unfold: Callable  # (B, in, out) -> a value like that of the alias


class Tapped(NamedTuple):
    """The result of an operation that uses a parameter.

    Attributes:
        value: The value of the operation.
        inputs: The values of the forward pass that ``site.factors`` needs.
        site: The description of the use.
    """

    value: Array
    inputs: tuple
    site: Site


def plain(x: Any) -> Any:
    """Return the value of an alias, and any other value unchanged."""
    return x.value if isinstance(x, Alias) else x


def site(
    alias: Alias,
    equation: Equation | None,
    rule: str,
    value: Array,
    factors: Callable,
    unfold: Callable,
) -> Site:
    """Describe one use of a parameter."""
    return Site(
        leaf=alias.leaf,
        place=alias.place,
        injective=alias.injective,
        rule=rule,
        where=_source.where(equation) if equation is not None else "the result",
        numbers=alias.value.size,
        form=jax.ShapeDtypeStruct(value.shape, value.dtype),
        factors=factors,
        unfold=unfold,
    )


def whole(x: Alias, equation: Equation | None, rule: str) -> Tapped:
    """Use a parameter in one piece: the gradient of each example is formed."""
    shape = x.value.shape
    unfold = lambda y: y.reshape(shape)
    return Tapped(x.value, (), site(x, equation, rule, x.value, as_one_row, unfold))


def as_one_row(_inputs: tuple, g: Array) -> tuple[Array, Array]:
    """Return the factors of a gradient that is used as it is: 1, and one row."""
    return jnp.ones((1, 1, 1), g.dtype), g.reshape(1, 1, -1)
