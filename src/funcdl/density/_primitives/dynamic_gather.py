"""The numbers that a gather may read at positions that are not known while tracing."""

import numpy as np

from funcdl.density._primitives.local_jacobian import LocalJacobian
from funcdl.density._program.program import Equation, Variable

_LARGEST = 1 << 22  # edges; beyond it the pattern is not worth its memory


def operand_edges(equation: Equation) -> LocalJacobian | None:
    """Return the numbers of the operand that each result may read: those that no index excludes.

    Under ``jax.vmap`` each result reads its own lane of the operand only.

    Args:
        equation: The gather.

    Returns:
        The edges, whose slopes are not known; None if there are too many of them.
    """
    numbers, batch = equation.eqn.params["dimension_numbers"], _batch(equation)
    shape, result = _shape(equation, 0), equation.results[0].shape
    places = np.indices(result).reshape(len(result), -1)
    absent = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [d for d in range(len(shape)) if d not in absent]
    inner = dict(zip(kept, numbers.offset_dims))
    lanes = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims))
    free = [d for d in range(len(shape)) if d in numbers.start_index_map]
    count = int(np.prod([shape[d] for d in free]))
    if places.shape[1] * count > _LARGEST:
        return None
    any_place = np.indices([shape[d] for d in free]).reshape(len(free), -1)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    cols = np.zeros((places.shape[1], count), int)
    for d, stride in enumerate(strides[: len(shape)]):
        if d in free:
            cols += stride * any_place[free.index(d)][None]
        else:
            at = batch[lanes[d]] if d in lanes else places[inner[d]]
            cols += stride * at[:, None]
    rows = np.repeat(np.arange(len(cols)), count)
    return LocalJacobian(rows, cols.ravel())


def index_edges(equation: Equation) -> LocalJacobian:
    """Return the numbers of the index array from which each result's position is computed."""
    shape = _shape(equation, 1)
    at = np.zeros(equation.results[0].size, int)
    for size, lane in zip(shape[:-1], _batch(equation)):
        at = at * size + lane
    cols = at[:, None] * shape[-1] + np.arange(shape[-1])[None]
    return LocalJacobian(np.repeat(np.arange(len(at)), shape[-1]), cols.ravel())


def _batch(equation: Equation) -> list[np.ndarray]:
    """Return for each axis of the index array, but the last, the position of every result on it."""
    result = equation.results[0].shape
    places = np.indices(result).reshape(len(result), -1)
    offsets = equation.eqn.params["dimension_numbers"].offset_dims
    return [places[d] for d in range(len(result)) if d not in offsets]


def _shape(equation: Equation, at: int) -> tuple[int, ...]:
    operand = equation.operands[at]
    return operand.shape if isinstance(operand, Variable) else np.shape(operand)
