r"""The log-determinant between two cuts: blocks of a static pattern, each by the cheapest means.

- a block of one number: one logarithm of one entry (``_entries``);
- rows that meet only in r shared numbers, as in :math:`x + u\,h(w^\top x)`: the determinant
  lemma, an r times r determinant;
- any other block: its own columns by forward products, one LU factorization.
"""

from collections.abc import Callable

import jax
import numpy as np
from scipy import sparse

from funcdl.density._jacobian.entries import paths
from funcdl.density._jacobian.parts import Bottleneck, Dense, Plan, Singles, columns
from funcdl.density._jacobian.sign_proof import keeps_sign
from funcdl.density._primitives.pattern import Block, blocks, colors, identity, patterns
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._primitives.table import record
from funcdl.density._program.program import Segment, Variable

_SMALL = 64  # up to this size a dense determinant is no burden


def plan(segment: Segment, reads_of: Callable, static: StaticValues, bounds: Callable) -> Plan:
    """Choose the means for one segment.

    Args:
        segment: With as many numbers before as after.
        reads_of: ``equation -> reads``.
        static: Constants.
        bounds: ``operand -> interval``.

    Returns:
        A static plan.
    """
    n = sum(s.size for s in segment.inputs)
    pattern = patterns(segment.equations, identity(segment.inputs, n), reads_of, n)
    jacobian = _stacked(segment.outputs, pattern)
    found = blocks(jacobian)
    if found is None:
        return Plan(segment, [], None, n)
    ones = [b for b in found if len(b.rows) == 1]
    many = [b for b in found if len(b.rows) > 1]
    if many:
        narrow = _bottleneck(segment, pattern, reads_of, n)
        # where an entry of the diagonal may be 0, the lemma divides by it
        if narrow is not None and (n > _SMALL or keeps_sign(narrow.diagonal, bounds)):
            return Plan(segment, [narrow], found, n, True)
    parts = []
    if ones:
        rows, cols = (np.concatenate(x) for x in zip(*ones))
        order = np.argsort(rows)
        single = paths(segment, pattern, reads_of, _wanted(segment, rows[order], cols[order]))
        if single is None:
            many += ones
        else:
            parts.append(Singles(single, rows[order], cols[order]))
    if many:
        part = _dense(jacobian, many)
        parts.append(part._replace(constant=_constant(segment, part, static)))
    within = sum(len(b.rows) ** 2 for b in found)
    return Plan(segment, parts, found, n, _inside(jacobian, found) if within < 1 << 24 else True)


def _inside(jacobian, found: list[Block]) -> bool:
    """Whether a pattern has no entry outside its diagonal blocks."""
    if len(found) == jacobian.shape[0]:
        return jacobian.nnz == len(found)
    row, col = (np.zeros(jacobian.shape[0], int) for _ in range(2))
    for at, block in enumerate(found):
        row[block.rows], col[block.cols] = at, at
    i, j = jacobian.nonzero()
    return bool((row[i] == col[j]).all())


def _stacked(outputs: list, pattern: dict):
    return sparse.vstack([pattern[o] for o in outputs], format="csr")


def _wanted(segment: Segment, rows: np.ndarray, cols: np.ndarray) -> list:
    """Split positions in the raveled outputs by output variable."""
    found, first = [], 0
    for variable in segment.outputs:
        inside = (rows >= first) & (rows < first + variable.size)
        if inside.any():
            found.append((variable, rows[inside] - first, cols[inside]))
        first += variable.size
    return found


def _dense(jacobian, wanted: list[Block]) -> Dense:
    n = jacobian.shape[1]
    color = colors(jacobian, wanted)
    used = np.flatnonzero(color >= 0)
    seeds = np.zeros((color.max() + 1, n), np.int8)
    seeds[color[used], used] = 1
    sizes: dict[int, list] = {}
    for block in wanted:
        sizes.setdefault(len(block.rows), []).append(block)
    groups = [tuple(np.stack(x) for x in zip(*group)) for group in sizes.values()]
    at = [rows[:, :, None] + n * color[cols][:, None] for rows, cols in groups]
    return Dense(seeds, at, groups)


def _constant(segment: Segment, part: Dense, static: StaticValues) -> list | None:
    """The blocks of a linear map whose matrices are constants."""
    inside = {*segment.inputs, *(s for equation in segment.equations for s in equation.results)}
    outside = {}
    for equation in segment.equations:
        given = [o for o in equation.operands if not (isinstance(o, Variable) and o in inside)]
        values = [static.value(o) for o in given]
        kind = record(equation.name).linear
        is_linear = kind == "jointly" or (kind == "separately" and len(given) == 1)
        if not is_linear or any(v is None for v in values):
            return None
        outside.update((o, v) for o, v in zip(given, values) if isinstance(o, Variable))
    zeros = {s: np.zeros(s.shape, s.dtype) for s in segment.inputs}
    empty = Plan(segment, [part], None, sum(s.size for s in segment.inputs))
    with jax.ensure_compile_time_eval():
        found = jax.jit(lambda: columns(empty, part, outside | zeros))()
        return [np.asarray(x) for x in found]


def _bottleneck(segment: Segment, pattern: dict, reads_of: Callable, n: int) -> Bottleneck | None:
    """Look for few numbers that, once held, leave a diagonal."""
    chosen: list[Variable] = []
    outputs = set(segment.outputs)
    for equation in segment.equations:
        for variable, edges in zip(equation.results, reads_of(equation)):
            if variable not in pattern or variable in outputs:
                continue
            held = sum(s.size for s in chosen) + variable.size
            if 2 * held <= n and _widens(equation, variable, edges, pattern):
                chosen.append(variable)
    if not chosen:
        return None
    start = identity(segment.inputs, n) | {s: _nothing(s, n) for s in chosen}
    held = patterns(segment.equations, start, reads_of, n)
    jacobian = _stacked(segment.outputs, held)
    if (np.diff(jacobian.indptr) != 1).any():
        return None
    match = jacobian.indices.astype(int)
    if len(np.unique(match)) != n:
        return None
    inner = segment._replace(inputs=[*segment.inputs, *chosen])
    diagonal = paths(inner, held, reads_of, _wanted(segment, np.arange(n), match))
    return None if diagonal is None else Bottleneck(chosen, diagonal, match)


def _nothing(variable: Variable, n: int):
    return sparse.csr_array((variable.size, n), dtype=bool)


def _widens(equation, variable, edges, pattern) -> bool:
    """Whether a result depends on more inputs than each of its operands does."""
    own = np.diff(pattern[variable].indptr).max(initial=0)
    before = [np.diff(pattern[equation.operands[at]].indptr).max(initial=0) for at in edges]
    return bool(own > max([1, *before]))
