"""A walk through the operations of a function that stops at a second derivative not finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcdl import _jaxpr, _source
from funcdl._jaxpr import Equation
from funcdl.autodiff._bind import scalar
from funcdl.autodiff._jets import Jet, is_moving, propagate


def first_not_finite(g: Callable, leaves: list, v: list) -> str:
    """Name the first operation that makes a derivative along v, or a product with H, not finite.

    Args:
        g: A scalar-valued function of a list of arrays.
        leaves: The point, a list of arrays.
        v: A direction.

    Returns:
        The operation as ``sqrt at file:line (function)``, or an empty string.
    """
    try:
        jets = [Jet(x, t, jnp.zeros_like(x)) for x, t in zip(leaves, v)]
        _jaxpr.interpret(jax.make_jaxpr(g)(leaves), jets, _forward)
        # every forward derivative is finite, so the cause is an operation of the reverse pass
        product = lambda x: jax.jvp(jax.grad(scalar(g)), (x,), (v,))[1]
        _jaxpr.interpret(jax.make_jaxpr(product)(leaves), leaves, _plain)
    except _FoundError as error:
        return str(error)
    return ""


class _FoundError(Exception):
    """Ends the walk, with an operation and its line, or the line of the call if jax hides it."""

    def __init__(self, name: str, place: str):
        super().__init__(f"{name} at {place}")
        self.name, self.place = name, place


def _broken(equation: Equation) -> _FoundError:
    return _FoundError(equation.primitive.name, _source.where(equation))


def _enter(equation: Equation, operands: list, rule: Callable) -> list:
    """Evaluate the jaxpr that an equation calls, by a rule."""
    try:
        return _jaxpr.interpret(_jaxpr.called(equation), operands, rule)
    except _FoundError as error:
        raise _FoundError(error.name, error.place or _source.where(equation)) from None


def _forward(equation: Equation, operands: list, plainly: Callable) -> list:
    """Propagate jets through one equation."""
    if not is_moving(operands):
        return plainly(*operands)
    if equation.primitive.name in _jaxpr.CALLS:
        return _enter(equation, operands, _forward)
    if equation.primitive.name == "scan":
        return _iterations(equation, operands)

    def derive(h: Callable, u: list, slopes: list, bends: list) -> tuple[list, list]:
        along = lambda u: jax.jvp(h, (u,), (slopes,))[1]
        first, second = jax.jvp(along, (u,), (slopes,))
        linear = jax.jvp(h, (u,), (bends,))[1]
        if not all(jnp.isfinite(a).all() for a in [*first, *second, *linear]):
            raise _broken(equation)
        return first, [b + c for b, c in zip(linear, second)]

    return propagate(equation, operands, plainly, derive)


def _iterations(equation: Equation, operands: list) -> list:
    """Run a scan on the host, so that an operation inside of it is found by name."""
    parts = _jaxpr.scan_parts(equation)
    first = parts.consts + parts.carry
    consts, carry, sequences = operands[: parts.consts], operands[parts.consts : first], []
    order = range(parts.options["length"])
    for i in reversed(order) if parts.options["reverse"] else order:
        slices = [jax.tree.map(lambda a, i=i: a[i], x) for x in operands[first:]]
        results = _enter(equation, [*consts, *carry, *slices], _forward)
        carry = results[: parts.carry]
        sequences.append(results[parts.carry :])
    if parts.options["reverse"]:
        sequences.reverse()
    columns = [_stack(list(column)) for column in zip(*sequences)]
    return [*carry, *columns]


def _stack(column: list) -> Any:
    """Stack jets, or values that do not depend on x in some iterations."""
    if not any(isinstance(x, Jet) for x in column):
        return jnp.stack(column)
    constant = lambda x: Jet(x, jnp.zeros_like(x), jnp.zeros_like(x))
    column = [x if isinstance(x, Jet) else constant(x) for x in column]
    return jax.tree.map(lambda *a: jnp.stack(a), *column)


def _plain(equation: Equation, operands: list, plainly: Callable) -> list:
    """Evaluate one equation of the reverse pass."""
    if equation.primitive.name in _jaxpr.CALLS:
        return _enter(equation, operands, _plain)
    results = plainly(*operands)
    floats = [y for y in results if jnp.issubdtype(y.dtype, jnp.floating)]
    if any(jnp.isnan(y).any() for y in floats):
        raise _broken(equation)
    return results
