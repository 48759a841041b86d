r"""Which numbers of its operands each number of a result reads, and with which derivative.

The local Jacobian of an operation is a sparse matrix, whose pattern is static: one edge for each
pair of a number of the result and a number of an operand that it reads. Everything that moves
numbers is one rule: run the operation on an array of positions.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.density._primitives.local_jacobian import (
    EVERYTHING,
    Local,
    LocalJacobian,
    by_row,
    spread,
    take,
    taken,
    unit,
)
from funcdl.density._primitives.nested_jaxprs import inner_pattern
from funcdl.density._primitives.slope import Slope, product
from funcdl.density._primitives.static_values import StaticValues, moved
from funcdl.density._primitives.table import is_elementwise, is_move, record
from funcdl.density._program.program import Equation, Variable

_COMPLEX = ("real", "imag", "conj", "complex")


def reads(equation: Equation, static: StaticValues) -> list[dict]:
    """Return what each result of an equation reads.

    Args:
        equation: Any.
        static: Constants and supports.

    Returns:
        For each result a dictionary from the position of a dynamic operand to ``LocalJacobian``, or
        to ``EVERYTHING``. A result that is no float reads nothing: its derivative is 0.
    """
    live = [
        at
        for at, o in enumerate(equation.operands)
        if isinstance(o, Variable) and o in static.dynamic and o.is_float
    ]
    entry = record(equation.name)
    found = None
    if entry.flat:
        found = [{}]
    elif (is_move(equation.name) and equation.name != "select_n") or _is_fixed_select(
        equation, static
    ):
        found = _moving(equation, live, static)
    elif is_elementwise(equation.name) or equation.name in _COMPLEX:
        found = [{at: _elementwise(equation, at, static) for at in live}]
    elif entry.reads is not None:
        found = entry.reads(equation, live, static)
    if found is None:
        found = _from_inside(equation, live, static)
    return [edges if r.is_float else {} for r, edges in zip(equation.results, found)]


def _from_inside(equation: Equation, live: list, static: StaticValues) -> list[dict]:
    """What an equation reads that has a jaxpr inside; everything, if it has none."""
    inside = inner_pattern(equation, live, static, reads) if live else None
    if inside is None:
        return [dict.fromkeys(live, EVERYTHING) for _ in equation.results]
    bounds = np.cumsum([0, *(equation.operands[at].size for at in live)])
    found = []
    for result, pattern in enumerate(inside):
        edges = {}
        for at, first, last in zip(live, bounds, bounds[1:]):
            rows, cols = pattern[:, first:last].nonzero()
            edges[at] = by_row(rows, cols, None)
            alone = len(np.unique(rows)) == len(rows) and equation.eqn.primitive.name != "while"
            if alone and equation.results[result].is_real:
                edges[at] = edges[at]._replace(
                    slope=partial(_by_product, equation, at, result, rows)
                )
        found.append(edges)
    return found


def _by_product(
    equation: Equation, at: int, result: int, rows: np.ndarray, values: Local, edges
) -> Slope:
    """The slopes of an equation whose numbers read one number each: a product with ones."""

    def along(x):
        operands = (*values.operands[:at], x, *values.operands[at + 1 :])
        return equation.evaluate(*operands)[result]

    x = values.operands[at]
    _, slopes = jax.jvp(along, (x,), (jnp.ones_like(x),))
    return Slope(((take(jnp.ravel(slopes), rows[edges]), 1),))


def _is_fixed_select(equation: Equation, static: StaticValues) -> bool:
    return equation.name == "select_n" and static.value(equation.operands[0]) is not None


def _moving(equation: Equation, live: list, static: StaticValues) -> list[dict] | None:
    """Each number of the result is one number of one operand: positions say which."""
    values = [static.value(o) for o in equation.operands]
    stand_ins, start, starts = [], 1, {}
    for at, o in enumerate(equation.operands):
        shape = o.shape if isinstance(o, Variable) else np.shape(o)
        ids = np.zeros(shape, np.int32)
        if at in live:
            ids = np.arange(start, start + ids.size, dtype=np.int32).reshape(shape)
            starts[at], start = start, start + ids.size
        stand_ins.append(ids)
    sources = moved(equation, values, stand_ins)
    if sources is None:
        return None
    sources = sources if isinstance(sources, list) else [sources]
    found = []
    for source in sources:
        ids = source.ravel()
        edges = {}
        for at, first in starts.items():
            rows = np.flatnonzero((ids >= first) & (ids < first + equation.operands[at].size))
            edges[at] = LocalJacobian(rows, ids[rows] - first, unit)
        found.append(edges)
    return found


def _elementwise(equation: Equation, at: int, static: StaticValues) -> LocalJacobian:
    result, operand = equation.results[0], equation.operands[at]
    cols = np.broadcast_to(np.arange(operand.size).reshape(operand.shape), result.shape).ravel()
    known = is_elementwise(equation.name) and result.is_real and operand.is_real
    rows = np.arange(result.size)
    support = static.support(equation.operands[1 - at]) if equation.name == "mul" else None
    if support is not None:  # a factor 0 reads nothing
        rows = np.flatnonzero(np.broadcast_to(support, result.shape))
    return LocalJacobian(
        rows, cols[rows], partial(_slope_at, equation, at, rows) if known else None
    )


def _slope_at(
    equation: Equation, at: int, rows: np.ndarray, values: Local, edges: np.ndarray
) -> Slope:
    """The slope of an elementwise equation by one operand."""
    slope = record(equation.name).slopes(equation.eqn.params, *values.operands, values.result)[at]
    slope = _resolved(slope, values)

    return taken(spread(slope, equation.results[0].shape), rows[edges])


def _resolved(slope: Slope, values: Local) -> Slope:
    """Write each factor that is an operand as a product with an exponential, if it is one."""
    found = Slope(log=slope.log)
    for factor, power in slope.factors:
        at = next((i for i, x in enumerate(values.operands) if x is factor), None)
        part = Slope(((factor, 1),)) if at is None else values.magnitude(at)
        part = Slope(
            tuple((f, k * power) for f, k in part.factors),
            None if part.log is None else power * part.log,
        )
        found = product(found, part)
    return found
