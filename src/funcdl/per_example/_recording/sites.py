r"""Where parameters are used: the sites of a jaxpr at which a derivative splits into two factors.

A parameter enters a computation through operations that are linear in it. Where that operation is
a product of matrices (dense layer, einsum, attention, convolution, a row of a table), the gradient
of one example is :math:`a^\top g`: ``a`` is what the parameter was multiplied with, ``g`` the
derivative in the product. Both fall out of one pass backward over all examples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _source
from funcdl._typing import Array


class Alias(NamedTuple):
    """A value that is a linear function of one parameter."""

    value: Array
    leaf: int  # which parameter
    place: Callable  # value = place(parameter), linear
    injective: bool  # whether each number of it is one of the parameter, none of them twice


class Site(NamedTuple):
    r"""One use of a parameter; static.

    The gradient of one example is ``place^T(unfold(a^T g))`` with
    ``a, g = factors(inputs, cotangent)`` of shapes ``(B, t, in)`` and ``(B, t, out)``: t positions
    share the parameter, B matrices are multiplied side by side. A table whose rows are looked up
    has integers ``(B, t)`` for ``a``: the rows.
    """

    leaf: int
    place: Callable
    injective: bool
    rule: str
    where: str
    numbers: int  # B * in * out
    form: jax.ShapeDtypeStruct  # of what is differentiated: the operation's result
    factors: Callable
    unfold: Callable  # (B, in, out) -> a value like that of the alias


class Tapped(NamedTuple):
    """The result of an operation that uses a parameter.

    Attributes:
        value: Of the operation.
        inputs: What ``site.factors`` needs of the pass forward.
        site: Its description.
    """

    value: Array
    inputs: tuple
    site: Site


def plain(x):
    """Return the value of an alias, or the value."""
    return x.value if isinstance(x, Alias) else x


def site(alias: Alias, equation, rule: str, value, factors, unfold) -> Site:
    form = jax.ShapeDtypeStruct(value.shape, value.dtype)
    return Site(
        alias.leaf,
        alias.place,
        alias.injective,
        rule,
        _source.where(equation) if equation is not None else "the result",
        alias.value.size,
        form,
        factors,
        unfold,
    )


def whole(x: Alias, equation, rule: str) -> Tapped:
    """Use a parameter as it is: the gradient of each example is written out."""
    shape = x.value.shape
    unfold = lambda y: y.reshape(shape)
    return Tapped(x.value, (), site(x, equation, rule, x.value, as_one_row, unfold))


def as_one_row(_inputs: tuple, g: Array) -> tuple[Array, Array]:
    return jnp.ones((1, 1, 1), g.dtype), g.reshape(1, 1, -1)
