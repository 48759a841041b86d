r"""Single entries of a segment's Jacobian, by the chain rule along the paths that reach them.

A walk backward over the static patterns finds the entries of earlier variables that a wanted entry
:math:`\partial y_i/\partial x_j` is a sum of; a walk forward over the values computes them. In a
triangular map each diagonal entry needs one entry per equation, whatever the width of the network
that fills the rest of the triangle.
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.density._jacobian.dense_log_det import zeroed
from funcdl.density._primitives.local_jacobian import Everything, is_known, taken
from funcdl.density._primitives.log_magnitude import local as around
from funcdl.density._primitives.pattern import Pattern
from funcdl.density._primitives.slope import ONE, Numbers, Slope, linear, product
from funcdl.density._program.program import Equation, Segment, Variable

# Entries are demand-driven. An entry of a variable v is a pair (number of v, column of x), and is
#     dv_i/dx_j = sum over edges (i, k) of dv_i/du_k * du_k/dx_j,
# so a wanted entry of a result asks for entries of its operands. Invariant of the backward walk:
# when it reaches an equation, ``asked`` holds all entries of its results that any later equation
# or output needs, because every variable is computed before it is read. Entries outside the static
# pattern of an operand are 0 and not asked for, which keeps the walk narrow.
# The textbook's forward mode computes whole columns: for a coupling it would differentiate the
# network, whose derivatives do not enter the determinant. Here they are never formed.
# Entries stay in the form m * exp(l) (see ``Slope``) until the logarithm is taken, since products
# and single derivatives may underflow. Only a sum of terms needs a common scale, in ``_sum``.

# the largest number of entries in a plan; beyond it a product with the Jacobian is cheaper
_LARGEST = 1 << 22


class Term(NamedTuple):
    """The contribution of one operand's entries to the entries of a result.

    The arrays have one element per product of an entry of the operand and an edge.

    Attributes:
        equation: The equation that computes the result.
        at: The position of the operand.
        read: The position of the factor among the operand's entries.
        add: The position of the sum among the result's entries.
        edges: The edge of the equation's local Jacobian that is the other factor.
        slope: The slopes of these edges, as in ``LocalJacobian``.
    """

    equation: Equation
    at: int
    read: np.ndarray
    add: np.ndarray
    edges: np.ndarray
    slope: Callable


class Paths(NamedTuple):
    """A static plan to compute some entries.

    Attributes:
        terms: For each variable in the order of evaluation: the variable, the number of terms of
            each of its entries, and the terms.
        inputs: The number of entries of each variable whose entries are 1.
        outputs: For each output variable with wanted entries: the variable, and the positions of
            the wanted entries among its entries.
        simple: Whether every entry is a single product.
    """

    terms: list
    inputs: dict
    outputs: list
    simple: bool


def paths(segment: Segment, pattern: dict, reads_of: Callable, wanted: list) -> Paths | None:
    """Plan the computation of entries.

    Args:
        segment: The equations, with the variables to differentiate by as inputs.
        pattern: The pattern of each variable, from ``patterns``.
        reads_of: ``equation -> reads``, the local Jacobians of its results.
        wanted: Triples ``(output variable, rows, cols)`` of the wanted entries.

    Returns:
        The plan; None if a derivative on the way is not known or the plan would be too large.
    """
    columns = next(iter(pattern.values())).shape[1]
    asked: dict[Variable, list] = {}
    for variable, rows, cols in wanted:
        asked.setdefault(variable, []).append(rows.astype(np.int64) * columns + cols)
    sources = set(segment.inputs)
    keys, plan, total, simple = {}, [], 0, True
    for equation in reversed(segment.equations):
        for variable, edges in zip(equation.results, reads_of(equation)):
            if variable not in asked or variable in sources:
                continue
            keys[variable] = np.unique(np.concatenate(asked[variable]))
            terms = _terms(equation, edges, keys[variable], pattern, columns)
            if terms is None:
                return None
            for term in terms:
                asked.setdefault(equation.operands[term.at], []).append(term.read)
            total += sum(len(term.read) for term in terms)
            if total > _LARGEST:
                return None
            count = np.bincount(np.concatenate([t.add for t in terms] or [[]]).astype(int),
                                minlength=len(keys[variable]))  # fmt: skip
            simple &= bool((count <= 1).all())
            plan.append((variable, count, terms))
    inputs = {}
    for variable in sources & set(asked):
        keys[variable] = np.unique(np.concatenate(asked[variable]))
        inputs[variable] = len(keys[variable])
    # only now all entries of each variable are known, so that keys become positions among them
    placed = [
        (v, count, [t._replace(read=np.searchsorted(keys[_operand(t)], t.read)) for t in terms])
        for v, count, terms in reversed(plan)
    ]
    outputs = [
        (variable, np.searchsorted(keys[variable], rows.astype(np.int64) * columns + cols))
        for variable, rows, cols in wanted
    ]
    return Paths(placed, inputs, outputs, simple)


def _operand(term: Term) -> Variable:
    return term.equation.operands[term.at]


def _terms(
    equation: Equation, edges: dict, keys: np.ndarray, pattern: dict, columns: int
) -> list[Term] | None:
    """Expand entries of a result into terms over entries of its operands.

    Args:
        equation: The equation that computes the result.
        edges: The local Jacobians of the result, by the position of the operand.
        keys: The wanted entries, ``row * columns + column`` each, sorted.
        pattern: The pattern of each variable.
        columns: The number of columns.

    Returns:
        The terms, with keys of the operand's entries in ``read``; None if a derivative is not
        known or there are too many terms.
    """
    rows, cols = keys // columns, keys % columns
    terms = []
    for at, read in edges.items():
        operand = equation.operands[at]
        if operand not in pattern or pattern[operand].nnz == 0:
            continue
        if isinstance(read, Everything):
            depends = np.asarray(pattern[operand].sum(0))[cols] > 0
            if depends.any():
                return None
            continue
        start = np.searchsorted(read.rows, rows)
        count = np.searchsorted(read.rows, rows, side="right") - start
        if count.sum() > _LARGEST:
            return None
        add = np.repeat(np.arange(len(rows)), count)
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        edge = np.repeat(start, count) + offset
        key = read.cols[edge].astype(np.int64) * columns + cols[add]
        keep = _member(key, pattern[operand], columns)
        add, edge, key = add[keep], edge[keep], key[keep]
        if len(key) == 0:
            continue
        if not is_known(read, edge):
            return None
        terms.append(Term(equation, at, read=key, add=add, edges=edge, slope=read.slope))
    return terms


def _member(keys: np.ndarray, pattern: Pattern, columns: int) -> np.ndarray:
    """Tell which entries, given by their keys, a sparse pattern contains."""
    rows, cols = keys // columns, keys % columns
    if pattern.nnz == pattern.shape[0] * columns:
        return np.ones(len(keys), bool)
    if not pattern.has_sorted_indices:
        pattern.sort_indices()
    owner = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
    filled = owner.astype(np.int64) * columns + pattern.indices
    at = np.minimum(np.searchsorted(filled, rows * columns + cols), max(len(filled) - 1, 0))
    return (filled[at] == rows * columns + cols) if len(filled) else np.zeros(len(keys), bool)


def entries(plan: Paths, values: dict, origin: dict, is_marked: bool = False) -> list[Slope]:
    """Compute the entries of a plan.

    Args:
        plan: The plan from ``paths``.
        values: The value of each variable.
        origin: The equation that computes each variable, which tells whether a factor is an
            exponential.
        is_marked: Whether a sum that is only the rounding error of its terms counts as 0.

    Returns:
        One ``Slope`` per output variable, which holds its entries; their magnitude is
        ``log_magnitude`` and their value ``linear``.
    """
    known: dict[Variable, Slope] = dict.fromkeys(plan.inputs, ONE)
    for variable, count, terms in plan.terms:
        slopes = [_term(t, known, values, origin) for t in terms]
        if len(terms) == 1 and (count == 1).all():
            known[variable] = _placed(slopes[0], terms[0].add)
        else:
            known[variable] = _sum(slopes, terms, count, is_marked)
    return [taken(known[variable], at) for variable, at in plan.outputs]


def _term(term: Term, known: dict, values: dict, origin: dict) -> Slope:
    """Multiply the entries of an operand by the slopes of the edges that read them."""
    local = term.slope(around(term.equation, values, origin), term.edges)
    return product(taken(known[_operand(term)], term.read), local)


def _placed(slope: Slope, add: np.ndarray) -> Slope:
    """Bring the terms into the order of the entries; each entry is one term."""
    return slope if np.array_equal(add, np.arange(len(add))) else taken(slope, np.argsort(add))


def _sum(slopes: list[Slope], terms: list[Term], count: np.ndarray, is_marked: bool) -> Slope:
    r"""Add the terms :math:`m\,e^l` of each entry, scaled by the largest that is not 0."""
    parts = [(linear(s), len(t.add)) for s, t in zip(slopes, terms)]
    logs = [jnp.broadcast_to(0.0 if l is None else l, (n,)) for (_, l), n in parts]
    mantissas = [jnp.broadcast_to(m, (n,)) for (m, _), n in parts]
    scaled = any(l is not None for (_, l), _ in parts)
    width = int(count.max(initial=0))
    where = np.concatenate([t.add for t in terms] or [np.zeros(0, int)]).astype(int)
    if width == 0:
        return Slope(((jnp.zeros(len(count)), 1),))
    order = np.argsort(where, kind="stable")
    within = np.arange(len(where)) - np.repeat(np.cumsum(count) - count, count)
    # each row of the table lists the terms of one entry, padded with the index of an extra 0
    table = np.full((len(count), width), len(where))
    table[where[order], within] = order
    mantissas = _columns(mantissas, 0.0, table)
    if not scaled:
        return Slope(((_total(mantissas, is_marked), 1),))
    logs = _columns(logs, -jnp.inf, table)
    tops = [jnp.where(m == 0, -jnp.inf, l).max(-1) for m, l in zip(mantissas, logs)]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    # where m is 0 only its derivative matters, which must not overflow
    most = 0.9 * np.log(jnp.finfo(top.dtype).max)
    scaled = [m * jnp.exp(jnp.minimum(l - top[:, None], most)) for m, l in zip(mantissas, logs)]
    return Slope(((_total(scaled, is_marked), 1),), top)


def _total(parts: list, is_marked: bool) -> Numbers:
    """Add the columns of arrays; the sum is 0 if it does not exceed the rounding of its terms."""
    add = lambda parts: functools.reduce(operator.add, [p.sum(-1) for p in parts])
    total = add(parts)
    if not is_marked:
        return total
    bound = jax.lax.stop_gradient(add(map(jnp.abs, parts)))
    return zeroed(total, jnp.abs(total) <= 4 * jnp.finfo(bound.dtype).eps * bound)


def _columns(parts: list, fill: float, table: np.ndarray) -> list:
    """Gather the rows of a table as arrays of shape ``(entries, w)``.

    Columns that are contiguous are slices of the parts, because a gather, and the scatter of its
    derivative, take longer than the additions.

    Returns:
        Arrays whose columns, in turn, are the columns of the table.
    """
    count, ends = len(table), np.cumsum([len(part) for part in parts])
    first = table[0]
    holder = np.searchsorted(ends, first, side="right")
    straight = (table == first + np.arange(count)[:, None]).all()
    if straight and (first + count <= np.append(ends, -1)[holder]).all():
        starts = first - np.append(0, ends)[holder]
        return [parts[at][start : start + count, None] for at, start in zip(holder, starts)]
    return [jnp.concatenate([*parts, jnp.full_like(parts[0][:1], fill)])[table]]
