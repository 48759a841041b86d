r"""Single entries of a segment's Jacobian, by the chain rule along the paths that reach them.

An entry :math:`\partial y_i/\partial x_j` is asked for; a walk backward over the static patterns
finds the entries of the values before that it is a sum of; a walk forward over the values
computes them. In a triangular map each diagonal entry asks for one entry per equation, whatever the
width of the net that makes the rest of the triangle.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.density._primitives.local_jacobian import Everything, is_known, taken
from funcdl.density._primitives.log_magnitude import local as around
from funcdl.density._primitives.slope import ONE, Slope, linear, product
from funcdl.density._program.program import Equation, Variable

# entries asked for, in all; beyond it a product with the Jacobian is cheaper
_LARGEST = 1 << 22


class Term(NamedTuple):
    """What the entries of a result take from those of one operand.

    Attributes:
        equation: The equation.
        at: The position of the operand.
        read: Position among the operand's entries, by term.
        add: Position among the result's entries, by term.
        edges: Edge of the equation that multiplies, by term.
        slope: As of ``LocalJacobian``.
    """

    equation: Equation
    at: int
    read: np.ndarray
    add: np.ndarray
    edges: np.ndarray
    slope: Callable


class Paths(NamedTuple):
    """A static plan for some entries.

    Attributes:
        terms: For each variable in order: its number of entries and the terms they are sums of.
        inputs: Slots whose entries are 1.
        outputs: For each entry asked for: its variable and the position there.
        simple: Whether no entry is a sum.
    """

    terms: list
    inputs: dict
    outputs: list
    simple: bool


def paths(segment, pattern: dict, reads_of: Callable, wanted: list) -> Paths | None:
    """Plan the computation of entries.

    Args:
        segment: Steps, and the variables to differentiate by.
        pattern: Of each variable; from ``patterns``.
        reads_of: ``equation -> reads``.
        wanted: For each output variable, arrays ``(rows, cols)``.

    Returns:
        The plan; None if a derivative on the way is not known, or the plan is too large.
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
            found, operand_keys = terms
            for at, key in operand_keys:
                asked.setdefault(equation.operands[at], []).append(key)
            total += sum(len(t[1]) for t in found)
            if total > _LARGEST:
                return None
            count = np.bincount(np.concatenate([t[2] for t in found] or [[]]).astype(int),
                                minlength=len(keys[variable]))  # fmt: skip
            simple &= bool((count <= 1).all())
            plan.append((variable, count, found))
    inputs = {}
    for variable in sources & set(asked):
        keys[variable] = np.unique(np.concatenate(asked[variable]))
        inputs[variable] = len(keys[variable])
    done = []
    for variable, count, found in reversed(plan):
        terms = [
            Term(equation, at, np.searchsorted(keys[equation.operands[at]], key), add, edges, slope)
            for equation, key, add, at, edges, slope in found
        ]
        done.append((variable, count, terms))
    outputs = [
        (variable, np.searchsorted(keys[variable], rows.astype(np.int64) * columns + cols))
        for variable, rows, cols in wanted
    ]
    return Paths(done, inputs, outputs, simple)


def _terms(equation: Equation, edges: dict, keys: np.ndarray, pattern: dict, columns: int):
    """Expand entries of a result into terms over entries of its operands."""
    rows, cols = keys // columns, keys % columns
    found, wanted = [], []
    for at, read in edges.items():
        operand = equation.operands[at]
        if operand not in pattern or pattern[operand].nnz == 0:
            continue
        if isinstance(read, Everything):
            inside = np.asarray(pattern[operand].sum(0))[cols] > 0
            if inside.any():
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
        found.append((equation, key, add, at, edge, read.slope))
        wanted.append((at, key))
    return found, wanted


def _member(keys: np.ndarray, pattern, columns: int) -> np.ndarray:
    """Tell which positions of a sparse pattern are filled."""
    rows, cols = keys // columns, keys % columns
    if pattern.nnz == pattern.shape[0] * columns:
        return np.ones(len(keys), bool)
    if not pattern.has_sorted_indices:
        pattern.sort_indices()
    owner = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
    filled = owner.astype(np.int64) * columns + pattern.indices
    at = np.minimum(np.searchsorted(filled, rows * columns + cols), max(len(filled) - 1, 0))
    return (filled[at] == rows * columns + cols) if len(filled) else np.zeros(len(keys), bool)


def entries(plan: Paths, values: dict, origin: dict) -> list[Slope]:
    """Compute the entries of a plan.

    Args:
        plan: From ``paths``.
        values: The value of each variable.
        origin: The equation that computes each variable; what a factor is the exponential of is
            read there.

    Returns:
        One ``Slope`` an output variable: its entries, of magnitude ``log_magnitude`` and value
        ``linear``.
    """
    known: dict[Variable, Slope] = dict.fromkeys(plan.inputs, ONE)
    for variable, count, terms in plan.terms:
        slopes = [_term(t, known, values, origin) for t in terms]
        if len(terms) == 1 and (count == 1).all():
            known[variable] = _placed(slopes[0], terms[0].add)
        else:
            known[variable] = _sum(slopes, terms, count)
    return [taken(known[variable], at) for variable, at in plan.outputs]


def _term(term: Term, known: dict, values: dict, origin: dict) -> Slope:
    local = term.slope(around(term.equation, values, origin), term.edges)
    return product(taken(known[term.equation.operands[term.at]], term.read), local)


def _placed(slope: Slope, add: np.ndarray) -> Slope:
    return slope if np.array_equal(add, np.arange(len(add))) else taken(slope, np.argsort(add))


def _sum(slopes: list[Slope], terms: list[Term], count: np.ndarray) -> Slope:
    r"""Add terms :math:`m\,e^l` of the same entry, scaled by the largest that is not 0."""
    parts = [(linear(s), len(t.add)) for s, t in zip(slopes, terms)]
    logs = [jnp.broadcast_to(0.0 if l is None else l, (n,)) for (_, l), n in parts]
    mantissas = [jnp.broadcast_to(m, (n,)) for (m, _), n in parts]
    scaled = any(l is not None for (_, l), _ in parts)
    width = int(count.max(initial=0))
    where = np.concatenate([t.add for t in terms] or [np.zeros(0, int)]).astype(int)
    if width == 0:
        return Slope(((jnp.zeros(len(count)), 1),))
    order = np.argsort(where, kind="stable")
    variable = np.arange(len(where)) - np.repeat(np.cumsum(count) - count, count)
    table = np.full((len(count), width), len(where))
    table[where[order], variable] = order
    mantissas = _columns(mantissas, 0.0, table)
    if not scaled:
        return Slope(((sum(m.sum(-1) for m in mantissas), 1),))
    logs = _columns(logs, -jnp.inf, table)
    tops = [jnp.where(m == 0, -jnp.inf, l).max(-1) for m, l in zip(mantissas, logs)]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    # where m is 0 only its derivative matters, and must not overflow
    most = 0.9 * np.log(jnp.finfo(top.dtype).max)
    scaled = [m * jnp.exp(jnp.minimum(l - top[:, None], most)) for m, l in zip(mantissas, logs)]
    return Slope(((sum(s.sum(-1) for s in scaled), 1),), top)


def _columns(parts: list, fill: float, table: np.ndarray) -> list:
    """Gather rows of a table as ``(entries, w)`` arrays; columns that run on are only cut out.

    A gather, and the scatter of its derivative, take longer than all that is added.

    Returns:
        Arrays whose columns are those of the table.
    """
    count, ends = len(table), np.cumsum([len(part) for part in parts])
    first = table[0]
    holder = np.searchsorted(ends, first, side="right")
    straight = (table == first + np.arange(count)[:, None]).all()
    if straight and (first + count <= np.append(ends, -1)[holder]).all():
        starts = first - np.append(0, ends)[holder]
        return [parts[at][start : start + count, None] for at, start in zip(holder, starts)]
    return [jnp.concatenate([*parts, jnp.full_like(parts[0][:1], fill)])[table]]
