r"""The log-determinant between two cuts: blocks of a static pattern, each by the cheapest means.

- a block of one number: one logarithm of one entry (``_entries``);
- rows that meet only in r shared numbers, as in :math:`x + u\,h(w^\top x)`: the determinant
  lemma, an r times r determinant;
- any other block: its own columns by forward products, one LU factorisation.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from funcdl import _tree
from funcdl._typing import Array
from funcdl.density._dense import log_abs_det
from funcdl.density._entries import Paths, entries, paths
from funcdl.density._pattern import Block, blocks, colors, identity, patterns
from funcdl.density._program import Segment, Slot
from funcdl.density._slopes import linear, log_magnitude
from funcdl.density._static import STRUCTURAL, Facts


class Singles(NamedTuple):
    """Blocks of one number, by entries.

    Attributes:
        paths: How to compute them.
        rows: Of the entries, increasing.
        cols: Theirs.
    """

    paths: Paths
    rows: np.ndarray
    cols: np.ndarray


class Dense(NamedTuple):
    """Blocks by forward products.

    Attributes:
        seeds: (k, n) Each row a sum of columns of the identity.
        positions: For each size of block: (b, s, s) positions in the ravelled products.
        blocks: For each size: rows and columns, (b, s) each.
        constant: For each size the blocks themselves, (b, s, s), where the segment is a linear map
            of constants: they and their determinants are computed while tracing.
    """

    seeds: np.ndarray
    positions: list
    blocks: list
    constant: list | None = None


class Bottleneck(NamedTuple):
    """A Jacobian that is diagonal but for what passes through few numbers.

    Attributes:
        slots: That hold these numbers.
        diagonal: How to compute the diagonal's entries, these numbers held.
        match: The column of each row's entry.
    """

    slots: list
    diagonal: Paths
    match: np.ndarray


class Plan(NamedTuple):
    """How to compute the log-determinant of one segment.

    Attributes:
        segment: The segment.
        parts: Each contributes a term.
        blocks: The diagonal blocks; None if the pattern alone makes it singular.
        n: How many numbers.
        separate: Whether nothing but the parts is in the Jacobian.
    """

    segment: Segment
    parts: list
    blocks: list | None
    n: int
    separate: bool = False


def plan(segment: Segment, reads_of: Callable, facts: Facts) -> Plan:
    """Choose the means for one segment.

    Args:
        segment: With as many numbers before as after.
        reads_of: ``step -> reads``.
        facts: Constants.

    Returns:
        A static plan.
    """
    n = sum(s.size for s in segment.inputs)
    pattern = patterns(segment.steps, identity(segment.inputs, n), reads_of, n)
    jacobian = _stacked(segment.outputs, pattern)
    found = blocks(jacobian)
    if found is None:
        return Plan(segment, [], None, n)
    ones = [b for b in found if len(b.rows) == 1]
    many = [b for b in found if len(b.rows) > 1]
    if many:
        narrow = _bottleneck(segment, pattern, reads_of, n)
        if narrow is not None:
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
        parts.append(part._replace(constant=_constant(segment, part, facts)))
    within = sum(len(b.rows) ** 2 for b in found)
    return Plan(segment, parts, found, n, _inside(jacobian, found) if within < 1 << 24 else True)


def _inside(jacobian, found: list[Block]) -> bool:
    """Whether a pattern has no entry outside its diagonal blocks."""
    row, col = (np.zeros(jacobian.shape[0], int) for _ in range(2))
    for at, block in enumerate(found):
        row[block.rows], col[block.cols] = at, at
    i, j = jacobian.nonzero()
    return bool((row[i] == col[j]).all())


def _stacked(outputs: list, pattern: dict):
    return sparse.vstack([pattern[o] for o in outputs], format="csr")


def _wanted(segment: Segment, rows: np.ndarray, cols: np.ndarray) -> list:
    """Split positions in the ravelled outputs by output slot."""
    found, first = [], 0
    for slot in segment.outputs:
        inside = (rows >= first) & (rows < first + slot.size)
        if inside.any():
            found.append((slot, rows[inside] - first, cols[inside]))
        first += slot.size
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


def _constant(segment: Segment, part: Dense, facts: Facts) -> list | None:
    """The blocks of a linear map whose matrices are constants."""
    inside = {*segment.inputs, *(s for step in segment.steps for s in step.results)}
    outside = {}
    for step in segment.steps:
        given = [o for o in step.operands if not (isinstance(o, Slot) and o in inside)]
        values = [facts.value(o) for o in given]
        bilinear = step.name in _BILINEAR and len(given) == 1
        if not (bilinear or step.name in _LINEAR) or any(v is None for v in values):
            return None
        outside.update((o, v) for o, v in zip(given, values) if isinstance(o, Slot))
    zeros = {s: np.zeros(s.shape, s.dtype) for s in segment.inputs}
    empty = Plan(segment, [part], None, sum(s.size for s in segment.inputs))
    with jax.ensure_compile_time_eval():
        found = jax.jit(lambda: _columns(empty, part, outside | zeros))()
        return [np.asarray(x) for x in found]


_BILINEAR = {"dot_general", "conv_general_dilated", "mul"}
_LINEAR = {*STRUCTURAL, "add", "sub", "neg", "fft", "cumsum", "reduce_sum", "real", "imag"} - {
    "select_n"
}


def _bottleneck(segment: Segment, pattern: dict, reads_of: Callable, n: int) -> Bottleneck | None:
    """Look for few numbers that, once held, leave a diagonal."""
    chosen: list[Slot] = []
    outputs = set(segment.outputs)
    for step in segment.steps:
        for slot, edges in zip(step.results, reads_of(step)):
            if slot not in pattern or slot in outputs:
                continue
            held = sum(s.size for s in chosen) + slot.size
            if 4 * held <= n and _widens(step, slot, edges, pattern):
                chosen.append(slot)
    if not chosen:
        return None
    start = identity(segment.inputs, n) | {s: _nothing(s, n) for s in chosen}
    held = patterns(segment.steps, start, reads_of, n)
    jacobian = _stacked(segment.outputs, held)
    if (np.diff(jacobian.indptr) != 1).any():
        return None
    match = jacobian.indices.astype(int)
    if len(np.unique(match)) != n:
        return None
    inner = segment._replace(inputs=[*segment.inputs, *chosen])
    diagonal = paths(inner, held, reads_of, _wanted(segment, np.arange(n), match))
    return None if diagonal is None else Bottleneck(chosen, diagonal, match)


def _nothing(slot: Slot, n: int):
    return sparse.csr_array((slot.size, n), dtype=bool)


def _widens(step, slot, edges, pattern) -> bool:
    """Whether a result depends on more inputs than each of its operands does."""
    own = np.diff(pattern[slot].indptr).max(initial=0)
    before = [np.diff(pattern[step.operands[at]].indptr).max(initial=0) for at in edges]
    return bool(own > max([2, *before]))


def log_det(plan: Plan, values: dict, origin: dict) -> Array:
    """Compute the log-determinant of a segment.

    Args:
        plan: Of the segment.
        values: Of all slots.
        origin: The step that computes each slot.

    Returns:
        A scalar.
    """
    dtype = _tree.wide(jnp.result_type(*(s.dtype for s in plan.segment.inputs)))
    if plan.blocks is None:
        return jnp.full((), -jnp.inf, dtype)
    total = jnp.zeros((), dtype)
    for part in plan.parts:
        if isinstance(part, Singles):
            for (_, at), slope in zip(part.paths.outputs, entries(part.paths, values, origin)):
                logs = jnp.asarray(log_magnitude(slope), dtype)
                total = total + (logs.sum() if logs.ndim else logs * len(at))
        elif isinstance(part, Bottleneck):
            total = total + _lemma(_update(plan, part, values, origin))
        else:
            total += sum(_log_dets(m) for m in _columns(plan, part, values))
    return total


def replay(segment: Segment, values: dict, given: dict) -> dict:
    """Evaluate the steps of a segment again.

    Args:
        segment: The segment.
        values: Of the slots from outside.
        given: Values of its inputs, and of slots that keep what is given.

    Returns:
        The values of its slots, as computed; ``given`` is what later steps read.
    """
    known, computed = dict(given), {}
    for step in segment.steps:
        operands = [
            (known[o] if o in known else values[o]) if isinstance(o, Slot) else o
            for o in step.operands
        ]
        for slot, y in zip(step.results, step.evaluate(*operands)):
            computed[slot] = y
            known.setdefault(slot, y)
    return known | {s: computed[s] for s in given if s in computed}


def split(x: Array, slots: list) -> dict:
    """Cut a vector into the values of slots."""
    bounds = np.cumsum([s.size for s in slots])[:-1]
    parts = jnp.split(x, bounds)
    return {s: p.reshape(s.shape).astype(s.dtype) for s, p in zip(slots, parts)}


def joined(values: dict, slots: list) -> Array:
    """Join the values of slots to a vector."""
    parts = [jnp.ravel(values[s]) for s in slots]
    return jnp.concatenate([p.astype(jnp.result_type(*parts)) for p in parts])


def _columns(plan: Plan, part: Dense, values: dict) -> list:
    """The blocks of a part, (b, s, s) for each size."""
    if part.constant is not None:
        return part.constant
    segment = plan.segment
    x = joined(values, segment.inputs)

    def outputs(x):
        return joined(replay(segment, values, split(x, segment.inputs)), segment.outputs)

    seeds = jnp.asarray(part.seeds, x.dtype)
    columns = jax.vmap(lambda v: jax.jvp(outputs, (x,), (v,))[1])(seeds).ravel()
    columns = columns.astype(_tree.wide(columns.dtype))
    return [columns[at] for at in part.positions]


def _log_dets(matrices) -> Array | float:
    """The sum of log-determinants; of constants it is computed here, in float64."""
    if not isinstance(matrices, np.ndarray):
        return log_abs_det(matrices.astype(_tree.wide(matrices.dtype))).sum()
    scaled = matrices / np.maximum(np.abs(matrices).max(-1, keepdims=True), 1e-300)
    smallest = np.linalg.svd(scaled.astype("float64"), compute_uv=False).min(-1)
    if (smallest <= jnp.finfo(matrices.dtype).eps).any():
        return -np.inf
    return float(np.linalg.slogdet(matrices.astype("float64"))[1].sum())


class Update(NamedTuple):
    r"""The parts of :math:`D + U (I - H)^{-1} V`.

    Attributes:
        log: (n,) Of the magnitudes of D's entries, by row.
        sign: (n,) Their signs.
        u: (n, r)
        v: (r, n) Its columns in the order of the rows that D matches them to.
        inner: (r, r) H, strictly triangular.
    """

    log: Array
    sign: Array
    u: Array
    v: Array
    inner: Array

    def core(self) -> tuple[Array, Array]:
        """Return I - H + V D^-1 U, and the sum of the magnitudes of its terms."""
        eye = jnp.eye(len(self.inner), dtype=self.inner.dtype)
        scaled = self.v * (self.sign * jnp.exp(-self.log))[None]
        bound = eye + jnp.abs(self.inner) + jnp.abs(scaled) @ jnp.abs(self.u)
        return eye - self.inner + scaled @ self.u, bound


def _update(plan: Plan, part: Bottleneck, values: dict, origin: dict) -> Update:
    """Differentiate by x with what passes held, and by what passes."""
    segment = plan.segment
    x, h = joined(values, segment.inputs), joined(values, part.slots)

    def outputs(x, h):
        found = replay(segment, values, split(x, segment.inputs) | split(h, part.slots))
        return jnp.concatenate([joined(found, segment.outputs), joined(found, part.slots)])

    def passing(x):
        found = replay(segment, values, split(x, segment.inputs) | split(h, part.slots))
        return joined(found, part.slots)

    eye = jnp.eye(len(h), dtype=h.dtype)
    by_h = jax.vmap(lambda v: jax.jvp(lambda h: outputs(x, h), (h,), (v,))[1])(eye)
    _, pull = jax.vjp(passing, x)
    v = jax.vmap(lambda row: pull(row)[0])(eye)
    dtype = _tree.wide(x.dtype)
    log, sign = _magnitudes(part.diagonal, values, origin, dtype)
    by_h, v = by_h.astype(dtype), v.astype(dtype)
    return Update(log, sign, by_h[:, : plan.n].T, v[:, part.match], by_h[:, plan.n :].T)


def _magnitudes(plan: Paths, values: dict, origin: dict, dtype) -> tuple[Array, Array]:
    """The logarithms and the signs of entries, in the order of their rows."""
    logs, signs = [], []
    for (_, at), slope in zip(plan.outputs, entries(plan, values, origin)):
        logs.append(jnp.broadcast_to(jnp.asarray(log_magnitude(slope), dtype), (len(at),)))
        signs.append(jnp.broadcast_to(jnp.sign(jnp.asarray(linear(slope)[0], dtype)), (len(at),)))
    return jnp.concatenate(logs), jnp.concatenate(signs)


def _lemma(update: Update) -> Array:
    r"""Return :math:`\log|\det D| + \log|\det(I - H + V D^{-1} U)|` (Sylvester, 1851)."""
    return update.log.sum() + log_abs_det(_without_rounding(*update.core()))


def jacobian_blocks(plan: Plan, values: dict, origin: dict) -> Callable:
    """Return the solver of the Jacobian's diagonal blocks.

    Args:
        plan: Of the segment.
        values: At the point.
        origin: The step that computes each slot.

    Returns:
        ``(n,) right side, by row -> (n,), by column``; exact if ``plan.separate``.
    """
    pieces = []
    for part in plan.parts:
        if isinstance(part, Singles):
            dtype = plan.segment.inputs[0].dtype
            rows, cols = part.rows, part.cols
            log, sign = _magnitudes(part.paths, values, origin, dtype)
            pieces.append(lambda b, r=rows, c=cols, d=sign * jnp.exp(-log): (c, b[r] * d))
        elif isinstance(part, Bottleneck):
            pieces.append(partial(_woodbury, part.match, _update(plan, part, values, origin)))
        else:
            for at, matrix in zip(part.blocks, _columns(plan, part, values)):
                pieces.append(partial(_block_solve, at, matrix))

    def solve(b: Array) -> Array:
        found = jnp.zeros_like(b)
        for piece in pieces:
            at, x = piece(b)
            found = found.at[at].set(x.astype(b.dtype))
        return found

    return solve


def _woodbury(match: np.ndarray, update: Update, b: Array) -> tuple:
    inverse = update.sign * jnp.exp(-update.log)
    core, _ = update.core()
    through = jnp.linalg.solve(core, update.v @ (inverse * b))
    return match, inverse * (b - update.u @ through)


def _block_solve(at: tuple, matrix: Array, b: Array) -> tuple:
    rows, cols = at
    return cols.ravel(), jnp.linalg.solve(matrix, b[rows][..., None])[..., 0].ravel()


def determinant_signs(plan: Plan, values: dict, origin: dict) -> Array:
    """Return the sign of the determinant of each diagonal block.

    Args:
        plan: Of the segment.
        values: At the point.
        origin: The step that computes each slot.

    Returns:
        A vector; 0 where a determinant is rounding, or not a number.
    """
    found = []
    finite = jnp.isfinite(joined(values, plan.segment.outputs))
    for part in plan.parts:
        if isinstance(part, Singles):
            _, sign = _magnitudes(part.paths, values, origin, plan.segment.inputs[0].dtype)
            found.append(jnp.where(finite[part.rows], sign, 0))
        elif isinstance(part, Bottleneck):
            update = _update(plan, part, values, origin)
            core, bound = update.core()
            core = _without_rounding(core, bound)
            found.append(jnp.where(finite.all(), update.sign.prod() * _sign(core), 0)[None])
        else:
            columns = zip(part.blocks, _columns(plan, part, values))
            found += [jnp.where(finite[rows].all(-1), _sign(m), 0) for (rows, _), m in columns]
    sign = jnp.concatenate(found)
    return jnp.where(jnp.isfinite(sign), sign, 0)


def _without_rounding(core: Array, bound: Array) -> Array:
    """Set to 0 what is only the rounding of the terms that it is the sum of."""
    return jnp.where(jnp.abs(core) <= 4 * jnp.finfo(core.dtype).eps * bound, 0.0, core)


def _sign(a: Array) -> Array:
    sign = jnp.linalg.slogdet(a).sign
    return jnp.where(jnp.isfinite(log_abs_det(a)), sign, 0)
