"""Operators on parameters that are means over data: the part they share."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from funcdl import _batching, _mean, _tree
from funcdl._check import function
from funcdl._typing import Globs, PyTree
from funcdl.curvature._block_derivatives import Leaves, vectors
from funcdl.curvature._stream_operator import Operator, StreamOperator
from funcdl.operators import Action, LinearOperator

_ALL = ("**",)


def over_data(
    product: Callable, functions: tuple, params: PyTree, data: PyTree, *, psd: bool = False
) -> Operator:
    """Build the symmetric operator whose product is a mean over all examples.

    Args:
        product: ``product(functions, leaves, v, *batch) -> (direction, weight)``: the sum over
            the examples of a batch and their weight; a module-level function, not a closure.
        functions: A tuple of ``Partial``.
        params: Any pytree of float arrays.
        data: One batch, ``Batches``, a stream, or ``None``.
        psd: Whether the operator is positive semi-definite.

    Returns:
        The operator; blocks differentiate only the leaves that they select.
    """
    form = vectors(params)
    if _batching.is_stream(data):
        return cast(Operator, StreamOperator(product, functions, params, data, psd=psd))
    operands = functions, params, data
    return LinearOperator(_action(product, _ALL, _ALL), operands, form, form, True, psd)


@functools.cache
def _action(product: Callable, rows: tuple[str, ...], columns: tuple[str, ...]) -> Action:
    """Return the action of a block; cached, so that equal blocks share a compilation."""
    return Action(
        functools.partial(_matvec, product, rows, columns),
        transpose=functools.partial(_matvec, product, columns, rows),
        block=functools.partial(_block, product) if rows == columns == _ALL else None,
    )


def _matvec(
    product: Callable,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    operands: tuple,
    v: PyTree,
) -> PyTree:
    functions, params, data = operands

    def one(*batch):
        direction, weight = product(functions, Leaves(params, rows, columns), v, *batch)
        return jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), direction), weight

    direction, weight = one() if data is None else _batching.total(one, data)
    return _tree.scale(1 / weight, direction)


def _block(product: Callable, operands: tuple, rows: Globs, columns: Globs) -> LinearOperator:
    rows, columns = ((w,) if isinstance(w, str) else tuple(w) for w in (rows, columns))
    params = operands[1]
    space_out, space_in = (vectors(_tree.select(params, where).chosen) for where in (rows, columns))
    same = space_in == space_out
    return LinearOperator(_action(product, rows, columns), operands, space_in, space_out, same)


def weighted(loss: Callable, *batch: PyTree) -> Callable:
    """Return ``x -> (total, weight)`` of ``loss(x, batch)``: a sum over examples, not a mean."""

    def total(x):
        mean = _mean.weighted(loss(x, *batch), batch)
        return mean.total, mean.weight

    return total


def check_scalar(value: Any, name: str = "loss") -> None:
    """Raise an error if the value of a loss is not a scalar mean of floats.

    Raises:
        ValueError: If it is not a scalar.
        TypeError: If it is not of a float dtype.
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


def check_function(f: object, name: str, arguments: str, hint: str = "") -> None:
    """Raise an error if an argument is not callable.

    Raises:
        TypeError: If it is not; the message says which function is expected.
    """
    function(name, f, f"a function {name}({arguments}){hint}")
