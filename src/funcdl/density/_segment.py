r"""The log-determinant between two cuts: blocks of a static pattern, each by the cheapest means.

- a block of one number: one logarithm of one entry (``_entries``);
- rows that meet only in r shared numbers, as in :math:`x + u\,h(w^\top x)`: the determinant
  lemma, an r times r determinant;
- any other block: its own columns by forward products, one LU factorisation.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._dense import log_abs_det
from funcdl.density._entries import Paths, entries, paths
from funcdl.density._pattern import Block, blocks, colors, identity, patterns
from funcdl.density._program import Segment, Slot
from funcdl.density._slopes import linear, log_magnitude


class Singles(NamedTuple):
    """Blocks of one number, by entries.

    Attributes:
        paths: How to compute them.
    """

    paths: Paths


class Dense(NamedTuple):
    """Blocks by forward products.

    Attributes:
        seeds: (k, n) Each row a sum of columns of the identity.
        rows: For each size of block: (b, s, s) positions in the ravelled products.
    """

    seeds: np.ndarray
    rows: list


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
    """

    segment: Segment
    parts: list
    blocks: list | None
    n: int


def plan(segment: Segment, reads_of: Callable) -> Plan:
    """Choose the means for one segment.

    Args:
        segment: With as many numbers before as after.
        reads_of: ``step -> reads``.

    Returns:
        A static plan.
    """
    n = sum(s.size for s in segment.inputs)
    pattern = patterns(segment.steps, identity(segment.inputs, n), reads_of, n)
    jacobian = _stacked(segment.outputs, pattern, n)
    found = blocks(jacobian)
    if found is None:
        return Plan(segment, [], None, n)
    ones = [b for b in found if len(b.rows) == 1]
    many = [b for b in found if len(b.rows) > 1]
    if many:
        narrow = _bottleneck(segment, pattern, reads_of, n)
        if narrow is not None:
            return Plan(segment, [narrow], found, n)
    parts = []
    if ones:
        rows, cols = (np.concatenate(x) for x in zip(*ones))
        order = np.argsort(rows)
        single = paths(segment, pattern, reads_of, _wanted(segment, rows[order], cols[order]))
        if single is None:
            many += ones
        else:
            parts.append(Singles(single))
    if many:
        parts.append(_dense(jacobian, many))
    return Plan(segment, parts, found, n)


def _stacked(outputs, pattern, n):
    from scipy import sparse

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
        at = block.rows[:, None] + n * color[block.cols][None]
        sizes.setdefault(len(block.rows), []).append(at)
    return Dense(seeds, [np.stack(group) for group in sizes.values()])


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
    jacobian = _stacked(segment.outputs, held, n)
    if (np.diff(jacobian.indptr) != 1).any():
        return None
    match = jacobian.indices.astype(int)
    if len(np.unique(match)) != n:
        return None
    inner = segment._replace(inputs=[*segment.inputs, *chosen])
    diagonal = paths(inner, held, reads_of, _wanted(segment, np.arange(n), match))
    return None if diagonal is None else Bottleneck(chosen, diagonal, match)


def _nothing(slot: Slot, n: int):
    from scipy import sparse

    return sparse.csr_array((slot.size, n), dtype=bool)


def _widens(step, slot, edges, pattern) -> bool:
    """Whether a result depends on more inputs than each of its operands does."""
    own = np.diff(pattern[slot].indptr).max(initial=0)
    before = [np.diff(pattern[step.operands[at]].indptr).max(initial=0) for at in edges]
    return own > max(2, *before, 0)


def log_det(plan: Plan, values: dict, origin: dict) -> Array:
    """Compute the log-determinant of a segment.

    Args:
        plan: Of the segment.
        values: Of all slots.
        origin: The step that computes each slot.

    Returns:
        A scalar.
    """
    dtype = jnp.result_type(*(s.dtype for s in plan.segment.inputs))
    if plan.blocks is None:
        return jnp.full((), -jnp.inf, dtype)
    total = jnp.zeros((), dtype)
    for part in plan.parts:
        if isinstance(part, Singles):
            for (_, at), slope in zip(part.paths.outputs, entries(part.paths, values, origin)):
                logs = jnp.asarray(log_magnitude(slope), dtype)
                total = total + (logs.sum() if logs.ndim else logs * len(at))
        elif isinstance(part, Bottleneck):
            total = total + _lemma(plan, part, values, origin)
        else:
            total = total + _blocks(plan, part, values)
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


def _split(x: Array, slots: list) -> dict:
    bounds = np.cumsum([s.size for s in slots])[:-1]
    parts = jnp.split(x, bounds)
    return {s: p.reshape(s.shape).astype(s.dtype) for s, p in zip(slots, parts)}


def _joined(values: dict, slots: list) -> Array:
    parts = [jnp.ravel(values[s]) for s in slots]
    return jnp.concatenate([p.astype(jnp.result_type(*parts)) for p in parts])


def _blocks(plan: Plan, part: Dense, values: dict) -> Array:
    segment = plan.segment
    x = _joined(values, segment.inputs)

    def outputs(x):
        return _joined(replay(segment, values, _split(x, segment.inputs)), segment.outputs)

    seeds = jnp.asarray(part.seeds, x.dtype)
    columns = jax.vmap(lambda v: jax.jvp(outputs, (x,), (v,))[1])(seeds).ravel()
    return sum(log_abs_det(columns[at]).sum() for at in part.rows)


def _lemma(plan: Plan, part: Bottleneck, values: dict, origin: dict) -> Array:
    r"""Return :math:`\log|\det(D + U(I - H)^{-1}V)| = \log|\det D| + \log|\det(I - H + V D^{-1} U)|`.

    h holds what passes; U, H are the derivatives of the outputs and of h by h, V of h by x; H is
    strictly triangular.
    """
    segment = plan.segment
    x, h = _joined(values, segment.inputs), _joined(values, part.slots)
    size = len(x)

    def outputs(x, h):
        found = replay(segment, values, _split(x, segment.inputs) | _split(h, part.slots))
        return jnp.concatenate([_joined(found, segment.outputs), _joined(found, part.slots)])

    by_h = jax.vmap(lambda v: jax.jvp(lambda h: outputs(x, h), (h,), (v,))[1])(
        jnp.eye(len(h), dtype=h.dtype)
    )
    _, pull = jax.vjp(lambda x: outputs(x, h)[size:], x)
    v = jax.vmap(lambda row: pull(row)[0])(jnp.eye(len(h), dtype=h.dtype))  # (r, n)
    u, inner = by_h[:, :size].T, by_h[:, size:].T
    slopes = entries(part.diagonal, values, origin)
    log = jnp.concatenate([jnp.broadcast_to(jnp.asarray(log_magnitude(s), x.dtype), (len(at),))
                           for (_, at), s in zip(part.diagonal.outputs, slopes)])  # fmt: skip
    sign = jnp.concatenate([jnp.broadcast_to(jnp.sign(jnp.asarray(linear(s)[0], x.dtype)), (len(at),))
                            for (_, at), s in zip(part.diagonal.outputs, slopes)])  # fmt: skip
    scaled = v[:, part.match] * (sign * jnp.exp(-log))
    eye = jnp.eye(len(h), dtype=h.dtype)
    core = eye - inner + scaled @ u
    bound = eye + jnp.abs(inner) + jnp.abs(scaled) @ jnp.abs(u)
    return log.sum() + _cancelled(core, bound)


def _cancelled(core: Array, bound: Array) -> Array:
    """The log-determinant of what sums of terms leave; -inf where it is their rounding."""
    eps = 4 * jnp.finfo(core.dtype).eps
    core = jnp.where(jnp.abs(core) <= eps * bound, 0.0, core)
    return log_abs_det(core)
