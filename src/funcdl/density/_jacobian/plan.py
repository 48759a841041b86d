r"""The plan of a segment's log-determinant: the cheapest way to each diagonal block.

- A block of one number takes one logarithm of one entry (``entries``).
- Rows that meet only in r shared numbers, as in :math:`x + u\,h(w^\top x)`, take the determinant
  lemma with a determinant of size r.
- Any other block takes its columns by forward products and one LU factorization.
"""

from collections.abc import Callable
from functools import cache

import jax
import numpy as np
from scipy import sparse

from funcdl.density._algebra.fused import fused
from funcdl.density._jacobian.entries import Paths, paths
from funcdl.density._jacobian.parts import Bottleneck, Dense, Plan, Singles, columns
from funcdl.density._jacobian.sign_proof import excludes_zero, keeps_sign
from funcdl.density._primitives.pattern import (
    Block,
    Pattern,
    blocks,
    colors,
    identity,
    patterns,
)
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._primitives.table import record
from funcdl.density._program.program import Equation, Segment, Variable

# Invariant: the determinant of the segment is, up to its sign, the product of the determinants of
# the parts. It holds because the Jacobian is block triangular in the order of ``blocks``, so
# entries outside the diagonal blocks, such as those of the network in a coupling, are not computed.
# The choice depends on the static pattern alone, not on values, so a plan is made once per trace.
# A dense determinant, the textbook's way, is the last resort, and even then only of one block. The
# columns of blocks are colored, so that one product serves several blocks.
# The lemma divides by the diagonal. Unless bounds prove that no entry is 0, the smallest entries
# are pivots, which stay in the small determinant. That doubles its size, so a small block without a
# proof takes a dense determinant.

_SMALL = 64  # up to this size a dense determinant is cheap


def plan(
    segment: Segment,
    reads_of: Callable,
    static: StaticValues,
    bounds: Callable,
    forms: Callable | None,
) -> Plan:
    """Plan the log-determinant of one segment.

    Args:
        segment: The segment, a map of n numbers to n numbers.
        reads_of: ``equation -> reads``, the local Jacobians of its results.
        static: The static values of the program.
        bounds: ``operand -> interval``.
        forms: ``() -> Forms`` of the program's variables; None if nothing in it can cancel.

    Returns:
        The plan.
    """
    n = sum(s.size for s in segment.inputs)
    pattern = patterns(segment.equations, identity(segment.inputs, n), reads_of, n)
    jacobian = _stacked(segment.outputs, pattern)
    diagonal_blocks = blocks(jacobian)
    if diagonal_blocks is None:
        return Plan(segment, [], None, n)
    ones = [b for b in diagonal_blocks if len(b.rows) == 1]
    many = [b for b in diagonal_blocks if len(b.rows) > 1]
    if many:
        narrow = _bottleneck(segment, pattern, reads_of, n, bounds)
        if narrow is not None and (n > _SMALL or keeps_sign(narrow.diagonal, bounds)):
            return Plan(segment, [narrow], diagonal_blocks, n, separate=True, jacobian=jacobian)
    parts = []
    if ones:
        single = _singles(segment, pattern, reads_of, ones, forms)
        if single is None:
            many += ones
        else:
            parts.append(single)
    if many:
        part = _dense(jacobian, many)
        parts.append(part._replace(constant=_constant(segment, part, static)))
    separate = _is_block_diagonal(jacobian, diagonal_blocks)
    return Plan(segment, parts, diagonal_blocks, n, separate, jacobian)


def _singles(
    segment: Segment, pattern: dict, reads_of: Callable, ones: list[Block], forms: Callable | None
) -> Singles | None:
    """Plan the entries that are blocks by themselves; None if a derivative is not known."""
    rows, cols = (np.concatenate(x) for x in zip(*ones))
    order = np.argsort(rows)
    rows, cols = rows[order], cols[order]
    wanted = _wanted(segment, rows, cols)
    plain = paths(segment, pattern, reads_of, wanted)
    if plain is None:
        return None

    @cache
    def exact() -> Paths:
        found = fused(segment, forms(), reads_of) if forms else None
        return (paths(found[0], pattern, found[1], wanted) if found else None) or plain

    return Singles(plain, rows, cols, exact)


def _is_block_diagonal(jacobian: Pattern, diagonal_blocks: list[Block]) -> bool:
    """Tell whether a pattern has no entry outside its diagonal blocks."""
    if len(diagonal_blocks) in (1, jacobian.shape[0]):
        return len(diagonal_blocks) == 1 or jacobian.nnz == len(diagonal_blocks)
    block_of_row, block_of_col = (np.zeros(jacobian.shape[0], np.int32) for _ in range(2))
    for at, block in enumerate(diagonal_blocks):
        block_of_row[block.rows], block_of_col[block.cols] = at, at
    owners = np.repeat(block_of_row, np.diff(jacobian.indptr))
    return bool((owners == block_of_col[jacobian.indices]).all())


def _stacked(outputs: list, pattern: dict) -> Pattern:
    return sparse.vstack([pattern[o] for o in outputs], format="csr")


def _wanted(segment: Segment, rows: np.ndarray, cols: np.ndarray) -> list:
    """Split entries of the Jacobian by output variable, as ``paths`` takes them."""
    wanted, first = [], 0
    for variable in segment.outputs:
        own = (rows >= first) & (rows < first + variable.size)
        if own.any():
            wanted.append((variable, rows[own] - first, cols[own]))
        first += variable.size
    return wanted


def _dense(jacobian: Pattern, wanted: list[Block]) -> Dense:
    """Plan the forward products that show the entries of the wanted blocks."""
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
    """Compute the blocks of a linear map with constant coefficients; None for other maps."""
    dynamic = {*segment.inputs, *(s for equation in segment.equations for s in equation.results)}
    constants = {}
    for equation in segment.equations:
        fixed = [o for o in equation.operands if not (isinstance(o, Variable) and o in dynamic)]
        values = [static.value(o) for o in fixed]
        entry = record(equation.name)
        is_linear = entry.linear == "jointly" or (entry.linear == "separately" and len(fixed) == 1)
        # an index that depends on x, or a conversion to integers, is not linear
        is_linear &= all(
            s.is_float for s in (*equation.variables, *equation.results) if s in dynamic
        )
        if not is_linear or any(v is None for v in values):
            return None
        constants.update((o, v) for o, v in zip(fixed, values) if isinstance(o, Variable))
    # the Jacobian of a linear map is the same everywhere, so it is taken at 0
    zeros = {s: np.zeros(s.shape, s.dtype) for s in segment.inputs}
    only_segment = Plan(segment, [part], None, sum(s.size for s in segment.inputs))
    with jax.ensure_compile_time_eval():
        matrices = jax.jit(lambda: columns(only_segment, part, constants | zeros))()
        return [np.asarray(x) for x in matrices]


def _bottleneck(
    segment: Segment, pattern: dict, reads_of: Callable, n: int, bounds: Callable
) -> Bottleneck | None:
    """Look for at most n / 2 numbers that, held fixed, leave a (permuted) diagonal Jacobian."""
    chosen: list[Variable] = []
    outputs = set(segment.outputs)
    for equation in segment.equations:
        for variable, edges in zip(equation.results, reads_of(equation)):
            if variable not in pattern or variable in outputs:
                continue
            size = sum(s.size for s in chosen) + variable.size
            if 2 * size <= n and _widens(equation, variable, edges, pattern):
                chosen.append(variable)
    if not chosen:
        return None
    start = identity(segment.inputs, n) | {s: _empty(s, n) for s in chosen}
    held = patterns(segment.equations, start, reads_of, n)
    jacobian = _stacked(segment.outputs, held)
    if (np.diff(jacobian.indptr) != 1).any():
        return None
    match = jacobian.indices.astype(int)
    if len(np.unique(match)) != n:
        return None
    inner = segment._replace(inputs=[*segment.inputs, *chosen])
    diagonal = paths(inner, held, reads_of, _wanted(segment, np.arange(n), match))
    if diagonal is None:
        return None
    return Bottleneck(chosen, diagonal, match, never_zero=excludes_zero(diagonal, bounds))


def _empty(variable: Variable, n: int) -> Pattern:
    return sparse.csr_array((variable.size, n), dtype=bool)


def _widens(equation: Equation, variable: Variable, edges: dict, pattern: dict) -> bool:
    """Tell whether a result depends on more inputs than each of its operands does."""
    own = np.diff(pattern[variable].indptr).max(initial=0)
    before = [np.diff(pattern[equation.operands[at]].indptr).max(initial=0) for at in edges]
    return bool(own > max([1, *before]))
