"""Records of operations along axes: contractions, sums, sorts, triangular solves, FFTs."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.density._primitives.interval import Interval, times
from funcdl.density._primitives.local_jacobian import (
    Local,
    LocalJacobian,
    Partly,
    by_row,
    spread,
    taken,
    unit,
)
from funcdl.density._primitives.primitive import Known, Primitive
from funcdl.density._primitives.slope import ONE, Slope
from funcdl.density._primitives.solves import (
    solve_contraction,
    solve_cumprod,
    solve_cumsum,
    solve_triangular,
)
from funcdl.density._program.program import Equation, Operand, Variable

# two arrays of one shape (results, products per result): the positions of the two factors
Positions = tuple[np.ndarray, np.ndarray] | None


def _contraction(equation: Equation, live: list, static: Known) -> list[dict] | None:
    """Return the edges of a contraction: each result is a sum of products of two numbers.

    The positions of the two factors are read from two arrays, one row per result. Position -1
    stands for the padding of a convolution.
    """
    positions = _POSITIONS[equation.name](equation)
    if positions is None or positions[0].size > 1 << 25:
        return None
    left, right = positions
    rows = np.repeat(np.arange(left.shape[0]), left.shape[1])
    edges = {}
    for at, (own, other) in enumerate(((left, right), (right, left))):
        if at in live:
            cols, partner = own.ravel(), other.ravel()
            support = static.support(equation.operands[1 - at])
            keep = slice(None)
            if support is not None or min(cols.min(initial=0), partner.min(initial=0)) < 0:
                keep = (cols >= 0) & (partner >= 0)
                keep = keep if support is None else keep & support.ravel()[partner]
            slope = partial(_partner, 1 - at, partner[keep])
            edges[at] = LocalJacobian(rows[keep], cols[keep], slope)
    return [edges]


def _partner(other: int, partner: np.ndarray, values: Local, edges: np.ndarray) -> Slope:
    """Return the derivative of a product by one factor, which is the other factor."""
    shape = jnp.shape(values.operands[other])
    return taken(spread(values.magnitude(other), shape), partner[edges])


def _dot_general(equation: Equation) -> Positions:
    """Return the positions of the factors of each result of a matrix product."""
    (contract_a, contract_b), (batch_a, batch_b) = equation.eqn.params["dimension_numbers"]
    a, b = (_line(o) for o in equation.operands)

    def split(x, batch, contract):
        free = [i for i in range(x.ndim) if i not in (*batch, *contract)]
        shape = [int(np.prod([x.shape[i] for i in axes])) for axes in (batch, free, contract)]
        return x.transpose((*batch, *free, *contract)).reshape(shape)

    a, b = split(a, batch_a, contract_a), split(b, batch_b, contract_b)
    shape = (a.shape[0], a.shape[1], b.shape[1], a.shape[2])
    if np.prod(shape) > 1 << 25:
        return None
    flat = int(np.prod(shape[:-1])), shape[-1]
    left = np.broadcast_to(a[:, :, None], shape).reshape(flat)
    right = np.broadcast_to(b[:, None], shape).reshape(flat)
    return left, right


def _line(operand: Operand, first: int = 0) -> np.ndarray:
    """Number the positions of an operand, in its shape."""
    shape = _shape(operand)
    return np.arange(first, first + np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)


def _shape(operand: Operand) -> tuple:
    return operand.shape if isinstance(operand, Variable) else np.shape(operand)


def _convolution(equation: Equation) -> Positions:
    """Return the positions of the factors of each result of a convolution.

    The patches of an array of positions are the positions of the input; a 0 in them is padding,
    which is why the positions are counted from 1 until the end.
    """
    params = equation.eqn.params
    if params["batch_group_count"] != 1 or params["feature_group_count"] != 1:
        return None
    x, kernel = (_line(operand, 1) for operand in equation.operands)
    if max(x.size, kernel.size) > 1 << 22:
        return None
    numbers = params["dimension_numbers"]
    taps = kernel.transpose(numbers.rhs_spec)  # (out, in, *window)
    with jax.ensure_compile_time_eval():
        patches = jax.lax.conv_general_dilated_patches(
            jnp.asarray(x.transpose(numbers.lhs_spec), _wide()),
            taps.shape[2:],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            precision=jax.lax.Precision.HIGHEST,
        )  # (batch, in * window, *space)
    left = np.moveaxis(np.asarray(patches).round().astype(int), 1, -1)[:, None] - 1
    batch, _, *space, k = left.shape
    shape = (batch, taps.shape[0], *space, k)
    right = taps.reshape(taps.shape[0], *(1,) * len(space), k) - 1
    # from (batch, out, *space) to the layout of the result
    order = (*np.argsort(numbers.out_spec), len(shape) - 1)
    left, right = (np.broadcast_to(p, shape).transpose(order).reshape(-1, k) for p in (left, right))
    return left, right


def _wide() -> np.dtype:
    """Return the default float type, which holds positions up to 1 << 22 exactly."""
    return np.dtype(jnp.result_type(float))


_POSITIONS = {"dot_general": _dot_general, "conv_general_dilated": _convolution}


def _along(
    equation: Equation, axis: int, mask: Callable, slope: Callable | None = None
) -> list[dict]:
    """Return the edges of an operation along an axis: i reads j of its line if ``mask(i, j)``."""
    operand = equation.operands[0]
    n = operand.shape[axis]
    ids = np.moveaxis(np.arange(operand.size).reshape(operand.shape), axis, -1).reshape(
        operand.size // max(n, 1), n
    )
    i, j = np.nonzero(mask(np.arange(n)[:, None], np.arange(n)[None]))
    return [{0: by_row(ids[:, i].ravel(), ids[:, j].ravel(), slope)}]


def _cumulative(slope: Callable | None) -> Callable:
    """Return the field ``reads`` of a cumulative operation."""

    def rule(equation, _live, _static):
        axis, is_reverse = equation.eqn.params["axis"], equation.eqn.params["reverse"]
        mask = (lambda i, j: j >= i) if is_reverse else (lambda i, j: j <= i)
        return _along(equation, axis, mask, slope)

    return rule


def _sort(equation: Equation, live: list, _static: Known) -> list[dict]:
    """Return the pattern of a sort: each result may be any number of its line."""
    axis = equation.eqn.params["dimension"]
    line = _along(equation, axis, lambda i, j: (i >= 0) & (j >= 0))[0][0]
    return [{at: line for at in live} for _ in equation.operands]


def _reduction(slope: Callable | None) -> Callable:
    """Return the field ``reads`` of a reduction over axes."""

    def rule(equation, live, _static):
        operand, axes = equation.operands[0], tuple(equation.eqn.params["axes"])
        kept = [i for i in range(len(operand.shape)) if i not in axes]
        ids = np.arange(operand.size).reshape(operand.shape).transpose((*kept, *axes))
        size = equation.results[0].size
        cols = ids.reshape(size, ids.size // max(size, 1))
        rows = np.repeat(np.arange(cols.shape[0]), cols.shape[1])
        return [{0: LocalJacobian(rows, cols.ravel(), slope)}] if 0 in live else [{}]

    return rule


def _scatter_add(equation: Equation, live: list, static: Known) -> list[dict] | None:
    """Return the edges of the operand and of the updates, if no two updates meet."""
    operand, _, updates = equation.operands
    values = [None, static.value(equation.operands[1]), None]
    ids = _line(updates, 1)
    zeros = np.zeros(_shape(operand), np.int32)
    count, placed = (static.moved(equation, values, [zeros, zeros, x]) for x in (ids * 0 + 1, ids))
    if count is None or placed is None or np.max(count, initial=0) > 1:
        return None
    line, rows = np.arange(zeros.size), np.flatnonzero(placed)
    moved = LocalJacobian(rows, np.ravel(placed)[rows] - 1, unit)
    edges = {0: LocalJacobian(line, line, unit), 2: moved}
    return [{at: edges[at] for at in live}]


def _triangular_solve(equation: Equation, live: list, _static: Known) -> list[dict] | None:
    """Return the edges by the right side: i reads j <= i (or j >= i) of its line.

    The diagonal of the inverse is 1 / a_ii; the other derivatives are not known.
    """
    if 0 in live:
        return None
    params = equation.eqn.params
    _, b = equation.operands
    left, lower = params["left_side"], params["lower"] != params["transpose_a"]
    *_, m, n = b.shape
    size = m if left else n
    ids = np.arange(b.size).reshape(-1, m, n)
    lines = (ids.transpose(0, 2, 1) if left else ids).reshape(-1, size)
    order = np.tri(size, dtype=bool) if lower == left else np.tri(size, dtype=bool).T
    i, j = np.nonzero(order)
    edges = by_row(lines[:, i].ravel(), lines[:, j].ravel(), None)
    corner = (edges.rows // (m * n)) * size * size  # of the matrix, in the raveled batch
    at = (edges.rows % (m * n)) // n if left else edges.rows % n
    diagonal = corner + at * (size + 1)
    exact = edges.rows == edges.cols
    slope = partial(_inverse_diagonal, diagonal, params["unit_diagonal"])
    return [{1: edges._replace(slope=Partly(slope, exact))}]


def _inverse_diagonal(
    diagonal: np.ndarray, is_unit: bool, values: Local, edges: np.ndarray
) -> Slope:
    """Return 1 / a_ii at some edges, ``diagonal`` being the position of a_ii for each edge."""
    return ONE if is_unit else Slope(((jnp.ravel(values.operands[0])[diagonal[edges]], -1),))


def _fft(equation: Equation, _live: list, _static: Known) -> list[dict]:
    """Return the pattern of an FFT: each number reads all numbers along the transformed axes."""
    ranks = len(equation.eqn.params["fft_lengths"])
    operand, result = equation.operands[0].shape, equation.results[0].shape
    batch = int(np.prod(operand[: len(operand) - ranks]))
    rows, cols = (
        np.arange(np.prod(shape, dtype=int)).reshape(batch, -1) for shape in (result, operand)
    )
    each = rows.shape[1], cols.shape[1]
    rows, cols = np.repeat(rows, each[1], 1), np.tile(cols, (1, each[0]))
    return [{0: LocalJacobian(rows.ravel(), cols.ravel())}]


def _sum_bounds(equation: Equation, x: Interval) -> Interval:
    count = equation.operands[0].size / max(equation.results[0].size, 1)
    return times(x, (count, count))


def _same_bounds(_equation: Equation, x: Interval) -> Interval:
    return x


AXES: dict[str, Primitive] = {
    "dot_general": Primitive(reads=_contraction, solve=solve_contraction, linear="separately"),
    "conv_general_dilated": Primitive(reads=_contraction, linear="separately"),
    "cumsum": Primitive(reads=_cumulative(unit), solve=solve_cumsum, linear="jointly"),
    "cumprod": Primitive(reads=_cumulative(None), solve=solve_cumprod),
    "cummax": Primitive(reads=_cumulative(None)),
    "cummin": Primitive(reads=_cumulative(None)),
    "cumlogsumexp": Primitive(reads=_cumulative(None)),
    "sort": Primitive(reads=_sort, folds=True, jumps=True),
    "reduce_sum": Primitive(reads=_reduction(unit), bounds=_sum_bounds, linear="jointly"),
    "reduce_max": Primitive(reads=_reduction(None), bounds=_same_bounds),
    "reduce_min": Primitive(reads=_reduction(None), bounds=_same_bounds),
    "reduce_prod": Primitive(reads=_reduction(None)),
    "scatter-add": Primitive(reads=_scatter_add, indices=slice(1, 2), rebuild=jax.lax.scatter_add),
    "triangular_solve": Primitive(reads=_triangular_solve, solve=solve_triangular),
    "fft": Primitive(reads=_fft, linear="jointly"),
}
