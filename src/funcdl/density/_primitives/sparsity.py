"""Which numbers of its operands each number of a result reads, and with which derivative.

The local Jacobian of an operation is a sparse matrix with a static pattern: one edge for each pair
of a number of the result and a number of an operand that it reads. A single rule covers all
operations that move numbers: run the operation on an array of positions.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.density._primitives import dynamic_gather
from funcdl.density._primitives.local_jacobian import (
    EVERYTHING,
    Everything,
    Local,
    LocalJacobian,
    by_row,
    spread,
    take,
    taken,
    unit,
    widened,
)
from funcdl.density._primitives.nested_jaxprs import Reading, inner_pattern
from funcdl.density._primitives.pattern import Pattern
from funcdl.density._primitives.slope import Slope, product
from funcdl.density._primitives.static_values import StaticValues, moved
from funcdl.density._primitives.table import holds_jaxprs, is_elementwise, is_move, record
from funcdl.density._program.program import Equation, Variable

_COMPLEX = ("real", "imag", "conj", "complex")


def reads(equation: Equation, static: StaticValues) -> list[dict]:
    """Return the local Jacobians of an equation.

    Args:
        equation: The equation.
        static: The static values of the program.

    Returns:
        For each result a dictionary from the position of a dynamic operand to a ``LocalJacobian``,
        or to ``EVERYTHING``. The dictionary of a result that is not a float is empty, because its
        derivative is 0.
    """
    live = [
        at
        for at, o in enumerate(equation.operands)
        if isinstance(o, Variable) and o in static.dynamic and o.is_float
    ]
    entry = record(equation.name)
    reads_of_results = None
    if entry.flat:
        reads_of_results = [{}]
    elif (is_move(equation.name) and equation.name != "select_n") or _is_fixed_select(
        equation, static
    ):
        reads_of_results = _moving(equation, live, static)
        if reads_of_results is None and equation.name == "gather" and live == [0]:
            reads_of_results = [{0: dynamic_gather.operand_edges(equation) or EVERYTHING}]
    elif is_elementwise(equation.name) or equation.name in _COMPLEX:
        reads_of_results = [{at: _elementwise(equation, at, static) for at in live}]
    elif entry.reads is not None:
        reads_of_results = entry.reads(equation, live, static)
    if reads_of_results is None:
        reads_of_results = _from_nested_jaxprs(equation, live, static)
    return [edges if r.is_float else {} for r, edges in zip(equation.results, reads_of_results)]


def value_reads(equation: Equation, static: StaticValues) -> list[dict]:
    """Return which numbers of its operands each number of a result is computed from.

    Unlike ``reads``, it follows integers and comparisons, the steps of functions such as ``sign``,
    and the numbers that a custom derivative leaves out.

    Args:
        equation: The equation.
        static: The static values of the program.

    Returns:
        For each result a dictionary like those of ``reads``, over all dynamic operands.
    """
    live = [
        at
        for at, o in enumerate(equation.operands)
        if isinstance(o, Variable) and o in static.dynamic
    ]
    if not live:
        return [{} for _ in equation.results]
    name = equation.name
    nested = inner_pattern(equation, live, static, _VALUES) if holds_jaxprs(name) else None
    if nested is not None:
        return [_by_operand(equation, live, pattern) for pattern in nested]
    if is_move(name) and (name != "select_n" or _is_fixed_select(equation, static)):
        shown = _moving(equation, live, static)
        if shown is not None:
            return shown
    return [
        {
            at: slopes[at] if at in slopes else _computed_from(equation, at, result, static)
            for at in live
        }
        for result, slopes in enumerate(reads(equation, static))
    ]


def _computed_from(
    equation: Equation, at: int, result: int, static: StaticValues
) -> LocalJacobian | Everything:
    """Return the numbers that a result reads of an operand without a derivative."""
    operand, entry = equation.operands[at], record(equation.name)
    if entry.pointwise or is_elementwise(equation.name):
        line = np.arange(operand.size).reshape(operand.shape)
        shape = equation.results[result].shape
        return LocalJacobian(
            np.arange(np.prod(shape, dtype=int)), np.broadcast_to(line, shape).ravel()
        )
    if equation.name == "gather":
        of_operand = dynamic_gather.operand_edges(equation) if at == 0 else None
        return of_operand or (dynamic_gather.index_edges(equation) if at == 1 else EVERYTHING)
    if entry.reads is not None:  # the pattern is the same for numbers that have no derivative
        reads_of_results = entry.reads(equation, [at], static)
        return (reads_of_results or [{}] * (result + 1))[result].get(at, EVERYTHING)
    return EVERYTHING


def _by_operand(equation: Equation, live: list, pattern: Pattern) -> dict:
    """Cut the pattern of a result by the operands that it is over."""
    bounds = np.cumsum([0, *(equation.operands[at].size for at in live)])
    parts = [pattern[:, first:last].nonzero() for first, last in pairwise(bounds)]
    return {at: by_row(rows, columns, None) for at, (rows, columns) in zip(live, parts)}


def _from_nested_jaxprs(equation: Equation, live: list, static: StaticValues) -> list[dict]:
    """Return the local Jacobians of a loop, branch or call, or ``EVERYTHING`` without a jaxpr."""
    nested = inner_pattern(equation, live, static, _DERIVATIVES) if live else None
    if nested is None:
        return [dict.fromkeys(live, EVERYTHING) for _ in equation.results]
    reads_of_results = []
    for result, pattern in enumerate(nested):
        edges = _by_operand(equation, live, pattern)
        for at, local in edges.items():
            rows = local.rows
            reads_one = len(np.unique(rows)) == len(rows)
            is_while = equation.eqn.primitive.name == "while"
            if reads_one and not is_while and equation.results[result].is_real:
                slope = partial(_by_product, equation, at, result, rows)
                edges[at] = local._replace(slope=slope)
        reads_of_results.append(edges)
    return reads_of_results


def _by_product(
    equation: Equation, at: int, result: int, rows: np.ndarray, values: Local, edges: np.ndarray
) -> Slope:
    """Return the slopes of an equation whose results read one number each: a jvp with ones."""

    def along(x):
        operands = (*values.operands[:at], x, *values.operands[at + 1 :])
        return equation.evaluate(*operands)[result]

    x = values.operands[at]
    _, slopes = jax.jvp(along, (x,), (jnp.ones_like(x),))
    return Slope(((widened(take(jnp.ravel(slopes), rows[edges])), 1),))


def _is_fixed_select(equation: Equation, static: StaticValues) -> bool:
    return equation.name == "select_n" and static.value(equation.operands[0]) is not None


def _moving(equation: Equation, live: list, static: StaticValues) -> list[dict] | None:
    """Return the edges of an operation that moves numbers, by running it on positions.

    The numbers of all live operands are counted from 1; the position 0 stands for a constant.
    """
    values = [static.value(o) for o in equation.operands]
    stand_ins, start, starts = [], 1, {}
    for at, o in enumerate(equation.operands):
        shape = o.shape if isinstance(o, Variable) else np.shape(o)
        ids = np.zeros(shape, np.int32)
        if at in live:
            ids = np.arange(start, start + ids.size, dtype=np.int32).reshape(shape)
            starts[at], start = start, start + ids.size
        stand_ins.append(ids)
    sources = moved(equation, values, stand_ins, 0)
    if sources is None:
        return None
    sources = sources if isinstance(sources, list) else [sources]
    reads_of_results = []
    for source in sources:
        ids = source.ravel()
        edges = {}
        for at, first in starts.items():
            rows = np.flatnonzero((ids >= first) & (ids < first + equation.operands[at].size))
            edges[at] = LocalJacobian(rows, ids[rows] - first, unit)
        reads_of_results.append(edges)
    return reads_of_results


def _elementwise(equation: Equation, at: int, static: StaticValues) -> LocalJacobian:
    """Return the edges of an elementwise operation: each number reads the one at its position."""
    result, operand = equation.results[0], equation.operands[at]
    cols = np.broadcast_to(np.arange(operand.size).reshape(operand.shape), result.shape).ravel()
    slopes = record(equation.name).slopes if result.is_real and operand.is_real else None
    rows = np.arange(result.size)
    support = static.support(equation.operands[1 - at]) if equation.name == "mul" else None
    if support is not None:  # the derivative with respect to a number that is multiplied by 0 is 0
        rows = np.flatnonzero(np.broadcast_to(support, result.shape))
    slope = partial(_slope_at, slopes, equation, at, rows) if slopes else None
    return LocalJacobian(rows, cols[rows], slope)


def _slope_at(
    slopes: Callable,
    equation: Equation,
    at: int,
    rows: np.ndarray,
    values: Local,
    edges: np.ndarray,
) -> Slope:
    """Return the slopes of an elementwise equation with respect to one operand, at some edges."""
    values = values._replace(
        operands=tuple(map(widened, values.operands)), result=widened(values.result)
    )
    slope = slopes(equation.eqn.params, *values.operands, values.result)[at]
    slope = _resolved(slope, values)
    return taken(spread(slope, equation.results[0].shape), rows[edges])


def _resolved(slope: Slope, values: Local) -> Slope:
    """Keep the exponent of each factor that is an operand computed by an exponential."""
    resolved = Slope(log=slope.log)
    for factor, power in slope.factors:
        at = next((i for i, x in enumerate(values.operands) if x is factor), None)
        part = Slope(((factor, 1),)) if at is None else values.magnitude(at)
        part = Slope(
            tuple((f, k * power) for f, k in part.factors),
            None if part.log is None else power * part.log,
        )
        resolved = product(resolved, part)
    return resolved


_DERIVATIVES, _VALUES = Reading(reads, of_values=False), Reading(value_reads, of_values=True)
