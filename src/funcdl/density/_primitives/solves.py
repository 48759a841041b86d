"""Inverses of linear operations along axes, with respect to one operand."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._primitives.primitive import Known
from funcdl.density._program.program import Equation


def solve_contraction(equation: Equation, at: int, static: Known) -> Callable | None:
    r"""Return the solve of :math:`A X = Y` for a contraction with :math:`A` of shape (b, m, k).

    The axes of A and Y are first brought into the order batch, free, contracted.

    Args:
        equation: A ``dot_general``.
        at: The position of the operand :math:`X`.
        static: The zeros of :math:`A`, which show whether it is triangular.

    Returns:
        A function ``(result, operands) -> X``; None if the matrices are not square.
    """
    numbers = equation.eqn.params["dimension_numbers"]
    contract, batch = numbers
    x, a = equation.operands[at], equation.operands[1 - at]
    a_shape = a.shape if hasattr(a, "shape") else np.shape(a)
    axes = [_axes(len(s), batch[i], contract[i]) for i, s in ((at, x.shape), (1 - at, a_shape))]
    (x_batch, x_free, x_contract), (a_batch, a_free, a_contract) = axes
    rows = int(np.prod([a_shape[i] for i in a_free]))
    cols = int(np.prod([a_shape[i] for i in a_contract]))
    if rows != cols:
        return None
    support = static.support(a)
    order = None if support is None else _grouped(support, (*a_batch, *a_free, *a_contract), rows)
    lower = order is not None and not np.triu(order, 1).any()
    upper = order is not None and not np.tril(order, -1).any()

    def inverse(y, operands):
        matrix = jnp.transpose(operands[1 - at], (*a_batch, *a_free, *a_contract))
        matrix = matrix.reshape(-1, rows, cols)
        nb = len(a_batch)
        x_at = range(nb, nb + len(x_free)) if at == 0 else range(y.ndim - len(x_free), y.ndim)
        a_at = [i for i in range(nb, y.ndim) if i not in x_at]
        right = jnp.transpose(y, (*range(nb), *a_at, *x_at)).reshape(len(matrix), rows, -1)
        if lower or upper:
            solution = jax.lax.linalg.triangular_solve(matrix, right, left_side=True, lower=lower)
        else:
            solution = jnp.linalg.solve(matrix, right)
        shape = [x.shape[i] for i in (*x_batch, *x_contract, *x_free)]
        axes_of_x = np.argsort((*x_batch, *x_contract, *x_free))
        return solution.reshape(shape).transpose(axes_of_x)

    return inverse


def _axes(ndim: int, batch: tuple, contract: tuple) -> tuple:
    free = tuple(i for i in range(ndim) if i not in (*batch, *contract))
    return tuple(batch), free, tuple(contract)


def _grouped(support: np.ndarray, order: tuple, rows: int) -> np.ndarray:
    """Return where any matrix of the batch may differ from 0."""
    return np.logical_or.reduce(support.transpose(order).reshape(-1, rows, rows), 0)


def solve_cumsum(equation: Equation, _at: int, _static: Known) -> Callable:
    """Return the inverse of a cumulative sum: differences along the axis."""
    axis, is_reverse = equation.eqn.params["axis"], equation.eqn.params["reverse"]

    def inverse(y: Array, _operands) -> Array:
        y = jnp.flip(y, axis) if is_reverse else y
        first = jax.lax.slice_in_dim(y, 0, 1, axis=axis)
        x = jnp.concatenate([first, jnp.diff(y, axis=axis)], axis)
        return jnp.flip(x, axis) if is_reverse else x

    return inverse


def solve_cumprod(equation: Equation, _at: int, _static: Known) -> Callable:
    """Return the inverse of a cumulative product: quotients along the axis."""
    axis, is_reverse = equation.eqn.params["axis"], equation.eqn.params["reverse"]

    def inverse(y: Array, _operands) -> Array:
        y = jnp.flip(y, axis) if is_reverse else y
        first = jax.lax.slice_in_dim(y, 0, 1, axis=axis)
        before = jax.lax.slice_in_dim(y, 0, y.shape[axis] - 1, axis=axis)
        after = jax.lax.slice_in_dim(y, 1, y.shape[axis], axis=axis)
        x = jnp.concatenate([first, after / before], axis)
        return jnp.flip(x, axis) if is_reverse else x

    return inverse


def solve_triangular(equation: Equation, at: int, _static: Known) -> Callable | None:
    """Return the inverse of a triangular solve by its right side: a product with the matrix."""
    if at == 0:
        return None
    params = equation.eqn.params

    def inverse(y: Array, operands) -> Array:
        a = jnp.tril(operands[0]) if params["lower"] else jnp.triu(operands[0])
        if params["unit_diagonal"]:
            eye = jnp.eye(a.shape[-1], dtype=a.dtype)
            a = jnp.where(eye > 0, eye, a)
        a = jnp.swapaxes(a, -1, -2) if params["transpose_a"] else a
        return a @ y if params["left_side"] else y @ a

    return inverse
