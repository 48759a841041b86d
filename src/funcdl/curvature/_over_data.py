"""Square operators on parameters that are means over data: what they share."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _mean, _tree
from funcdl._typing import PyTree
from funcdl.linalg import Action, LinearOperator, Space, space

_ALL = ("**",)


class Leaves(NamedTuple):
    """Parameters, differentiated forward in some leaves and backward in others.

    Attributes:
        params: All of them.
        rows: Globs of the leaves whose derivatives are the output.
        columns: Globs of the leaves in which a direction is given.
    """

    params: PyTree
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def jvp(self, f: Callable, v: PyTree) -> tuple[PyTree, PyTree]:
        """Evaluate ``f(params)`` and its derivative along ``v``."""
        chosen, merge = _tree.select(self.params, self.columns)
        v = jax.tree.map(lambda x, p: x.astype(p.dtype), v, chosen)
        return jax.jvp(lambda c: f(merge(c)), (chosen,), (v,))

    def vjp(self, f: Callable, cotangent: PyTree) -> PyTree:
        """Pull a cotangent of ``f(params)`` back."""
        return backward(f, self.params, self.rows, cotangent)


def backward(f: Callable, params: PyTree, rows: tuple[str, ...], cotangent: PyTree) -> PyTree:
    """Pull a cotangent of ``f(params)`` back to the leaves that globs name."""
    chosen, merge = _tree.select(params, rows)
    return jax.vjp(lambda c: f(merge(c)), chosen)[1](cotangent)[0]


def over_data(
    product: Callable, functions: tuple, params: PyTree, data: PyTree, *, psd: bool = False
) -> LinearOperator:
    """Build the symmetric operator whose product is a mean over all examples.

    Args:
        product: ``product(functions, leaves, v, *batch) -> (direction, weight)``: the sum over
            the examples of a batch and their weight, a function of a module (no closure).
        functions: A tuple of ``Partial``.
        params: Any pytree of float arrays.
        data: One batch, ``Batches``, or ``None``.
        psd: Whether it is positive semi-definite.

    Returns:
        The operator; blocks differentiate only the leaves they name.
    """
    form = vectors(params)
    operands = functions, params, data
    return LinearOperator(_action(product, _ALL, _ALL), operands, form, form, True, psd)


def vectors(params: PyTree) -> Space:
    """Return the form of vectors like the parameters, in at least float32."""
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _tree.wide(x.dtype)), params)
    return space(wide)


@functools.cache
def _action(product: Callable, rows: tuple[str, ...], columns: tuple[str, ...]) -> Action:
    """Return the action of a block; cached, so that equal blocks share a compilation."""
    return Action(
        functools.partial(_matvec, product, rows, columns),
        transpose=functools.partial(_matvec, product, columns, rows),
        block=functools.partial(_block, product) if rows == columns == _ALL else None,
    )


def _matvec(product: Callable, rows, columns, operands, v: PyTree) -> PyTree:
    functions, params, data = operands

    def one(*batch):
        direction, weight = product(functions, Leaves(params, rows, columns), v, *batch)
        return jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), direction), weight

    direction, weight = one() if data is None else _mean.total(one, data)
    return _tree.scale(1 / weight, direction)


def _block(product: Callable, operands, rows, columns) -> LinearOperator:
    rows, columns = ((w,) if isinstance(w, str) else tuple(w) for w in (rows, columns))
    params = operands[1]
    space_out, space_in = (vectors(_tree.select(params, where).chosen) for where in (rows, columns))
    same = space_in == space_out
    return LinearOperator(_action(product, rows, columns), operands, space_in, space_out, same)


def weighted(loss: Callable, *batch) -> Callable:
    """Return ``x -> (total, weight)`` of ``loss(x, batch)``: a sum over examples, not a mean."""

    def total(x):
        mean = _mean.weighted(loss(x, *batch), batch)
        return mean.total, mean.weight

    return total


def check_scalar(value, name: str = "loss") -> None:
    """Refuse what is no scalar mean of floats.

    Raises:
        ValueError: If it has a shape.
        TypeError: If it is no float.
    """
    parts = value if isinstance(value, _mean.Mean) else (value,)
    if any(getattr(part, "shape", None) != () for part in parts):
        got = jax.tree.map(lambda x: f"shape {x.shape}", value)
        raise ValueError(
            f"{name} returned {got}; expected a scalar mean over the examples or "
            "Mean(total, weight)"
        )
    if not jnp.issubdtype(parts[0].dtype, jnp.floating):
        raise TypeError(f"{name} returned dtype {parts[0].dtype}; expected a float")


def check_function(f, name: str, arguments: str, hint: str = "") -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: Says what is expected.
    """
    if not callable(f):
        raise TypeError(
            f"{name} is a {type(f).__name__}; expected a function {name}({arguments}){hint}"
        )
