"""Inversion by propagation: what is known of the results makes operands known, and forth again.

A schedule is made once, on Boolean arrays of what is known; the values follow it. A coupling layer
is inverted so without solving anything: its first half passes, its net runs forward, its second
half comes back.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._inversion.backward_step import back
from funcdl.density._inversion.context import Setting, is_known, value_of
from funcdl.density._primitives.edges import EVERYTHING, take
from funcdl.density._primitives.table import record
from funcdl.density._program.program import Slot, Step

# rounds of forth and back; a triangular map would need one for each number
_ROUNDS = 4


class Move(NamedTuple):
    """One action of a schedule.

    Attributes:
        slots: What becomes known.
        new: For each which of its numbers, as positions.
        compute: ``(values, *new) -> (one array a slot, reached)``: its new numbers, and whether
            they exist.
    """

    slots: list[Slot]
    new: list[np.ndarray]
    compute: Callable


class Schedule(NamedTuple):
    """How far propagation comes.

    Attributes:
        moves: In order.
        unknown: For each input of the segment, which numbers are not known after them.
        known: Boolean arrays by slot.
    """

    moves: list[Move]
    unknown: dict
    known: dict

    @property
    def is_short(self) -> bool:
        """Whether something stays unknown."""
        return any(mask.any() for mask in self.unknown.values())


def schedule(setting: Setting) -> Schedule:
    """Plan the inversion of a segment whose outputs are known.

    Args:
        setting: Of the segment.

    Returns:
        The plan.
    """
    segment = setting.segment
    known: dict[Slot, np.ndarray] = {s: np.ones(s.shape, bool) for s in segment.outputs}
    moves: list[Move] = []

    def done() -> bool:
        return all(s in known and known[s].all() for s in segment.inputs)

    def learn(found) -> None:
        for slots, masks, compute in found:
            before = [known.get(s, np.zeros(s.shape, bool)) for s in slots]
            new = [np.flatnonzero(m.reshape(b.shape) & ~b) for m, b in zip(masks, before)]
            if any(map(len, new)):
                moves.append(Move(slots, new, compute))
                known.update(
                    (s, np.asarray(b | m.reshape(b.shape))) for s, m, b in zip(slots, masks, before)
                )

    for _ in range(_ROUNDS):
        count = len(moves)
        for step in reversed(segment.steps):
            learn(back(step, setting, known))
        if done():
            break
        for step in segment.steps:
            learn(_forth(step, setting, known))
        if len(moves) == count:
            break
    unknown = {s: np.asarray(~known.get(s, np.zeros(s.shape, bool))) for s in segment.inputs}
    return Schedule(moves, unknown, known)


def follow(plan: Schedule, values: dict) -> tuple[dict, Array]:
    """Carry out a schedule.

    Args:
        plan: From ``schedule``.
        values: Of the known slots and of all that do not depend on x.

    Returns:
        The values, and whether every number that was inverted has a pre-image.
    """
    values = dict(values)
    all_reached = jnp.asarray(True)
    for move in plan.moves:
        found, reached = move.compute(values, *move.new)
        all_reached &= reached
        for slot, new, x in zip(move.slots, move.new, found):
            x = jnp.ravel(x).astype(slot.dtype)
            if len(new) < slot.size:
                x = jnp.ravel(value_of(values, slot)).at[new].set(x, unique_indices=True)
            values[slot] = x.reshape(slot.shape)
    return values, all_reached


def _forth(step: Step, setting: Setting, known: dict):
    """What follows from the operands."""
    masks = [is_known(o, setting, known) for o in step.operands]
    for at, (slot, edges) in enumerate(zip(step.results, setting.reads_of(step))):
        if slot in known and known[slot].all():
            continue
        new = np.ones(slot.size, bool)
        for place, (operand, mask) in enumerate(zip(step.operands, masks)):
            if not isinstance(operand, Slot) or operand not in setting.dynamic:
                continue
            read = edges.get(place)
            if read is None:
                new &= _without_slope(step, slot, mask)
            elif isinstance(read, str) and read == EVERYTHING:
                new &= mask.all()
            else:
                new[read.rows[~mask.ravel()[read.cols]]] = False
        if new.any():

            def compute(values, new, at=at):
                found = step.evaluate(*(value_of(values, o) for o in step.operands))[at]
                return [take(jnp.ravel(found), new)], True

            yield [slot], [new], compute


def _without_slope(step: Step, slot: Slot, mask: np.ndarray) -> np.ndarray:
    """Which numbers of a result follow from an operand that it has no derivative by."""
    if record(step.name).pointwise and mask.size in (1, slot.size):
        return np.broadcast_to(mask.ravel(), (slot.size,))
    return np.broadcast_to(mask.all(), (slot.size,))
