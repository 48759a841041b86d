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
from funcdl.density import _slopes
from funcdl.density._edges import EVERYTHING, take, unit
from funcdl.density._interval import UNBOUNDED
from funcdl.density._inverses import inverse_of
from funcdl.density._linear import linear_inverse
from funcdl.density._program import Segment, Slot, Step
from funcdl.density._static import STRUCTURAL

# rounds of forth and back; a triangular map would need one for each number
_ROUNDS = 4

# results that are no floats, each number of which follows from those at its own position
AT_PLACE = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "xor", "sign", "floor", "ceil",
             "round", "is_finite", "convert_element_type", "stop_gradient", "select_n"}  # fmt: skip


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


class Setting(NamedTuple):
    """What a schedule is made from.

    Attributes:
        segment: The segment.
        dynamic: Slots that depend on x.
        reads_of: ``step -> reads``.
        bounds: ``operand -> interval``.
        facts: Constants and supports.
        lift: ``(step, places, made) -> Lifted | None``.
    """

    segment: Segment
    dynamic: set
    reads_of: Callable
    bounds: Callable
    facts: object
    lift: Callable


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
            learn(_back(step, setting, known))
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
                x = jnp.ravel(_value(values, slot)).at[new].set(x, unique_indices=True)
            values[slot] = x.reshape(slot.shape)
    return values, all_reached


def _value(values: dict, operand):
    """An operand's value; where nothing is known of it yet, what few functions are singular at."""
    if not isinstance(operand, Slot):
        return operand
    return values[operand] if operand in values else jnp.full(operand.shape, 0.5, operand.dtype)


def _is_known(operand, setting: Setting, known: dict) -> np.ndarray:
    """Which numbers of an operand are known."""
    if not isinstance(operand, Slot):
        return np.ones(np.shape(operand), bool)
    if operand not in setting.dynamic:
        return np.ones(operand.shape, bool)
    return known.get(operand, np.zeros(operand.shape, bool))


def _forth(step: Step, setting: Setting, known: dict):
    """What follows from the operands."""
    masks = [_is_known(o, setting, known) for o in step.operands]
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
                found = step.evaluate(*(_value(values, o) for o in step.operands))[at]
                return [take(jnp.ravel(found), new)], True

            yield [slot], [new], compute


def _without_slope(step: Step, slot: Slot, mask: np.ndarray) -> np.ndarray:
    """Which numbers of a result follow from an operand that it has no derivative by."""
    if step.name in AT_PLACE and mask.size in (1, slot.size):
        return np.broadcast_to(mask.ravel(), (slot.size,))
    return np.broadcast_to(mask.all(), (slot.size,))


def _back(step: Step, setting: Setting, known: dict):
    """What follows from the results."""
    if not any(s in known and known[s].any() for s in step.results):
        return
    places = [
        at
        for at, o in enumerate(step.operands)
        if isinstance(o, Slot) and o in setting.dynamic and not _is_known(o, setting, known).all()
    ]
    if not places:
        return
    if step.name in STRUCTURAL and not (
        step.name == "select_n" and setting.facts.value(step.operands[0]) is None
    ):
        yield from _unmoved(step, places, setting, known)
    elif step.name in _slopes.SLOPES:
        yield from _elementwise(step, places, setting, known)
    else:
        yield from _whole(step, places, setting, known)


def _unmoved(step: Step, places: list, setting: Setting, known: dict):
    """A number of the operand is wherever the step moved it."""
    for slot, edges in zip(step.results, setting.reads_of(step)):
        if slot not in known:
            continue
        for at in places:
            read = edges.get(at)
            if read is None or isinstance(read, str) or read.slope is not unit:
                continue
            shown = known[slot].ravel()[read.rows]
            source = np.full(step.operands[at].size, -1)
            source[read.cols[shown]] = read.rows[shown]
            if (source >= 0).any():

                def compute(values, new, slot=slot, source=source):
                    return [take(jnp.ravel(values[slot]), source[new])], True

                yield [step.operands[at]], [source >= 0], compute


def _elementwise(step: Step, places: list, setting: Setting, known: dict):
    """One operand from the result and the others."""
    slot = step.results[0]
    if slot not in known:
        return
    for at in places:
        operand = step.operands[at]
        others = [i for i in range(len(step.operands)) if i != at]
        if operand.size != slot.size or any(step.operands[i] is operand for i in others):
            continue
        inverse = inverse_of(step.name, step.equation.params, at, setting.bounds(operand))
        if inverse is None:
            continue
        new = known[slot].ravel().copy()
        for i in others:
            mask = _is_known(step.operands[i], setting, known).ravel()
            new &= mask if mask.size == new.size else mask.all()
        if not new.any():
            continue

        def compute(values, new, inverse=inverse, others=others):
            rest = [jnp.ravel(_value(values, step.operands[i])) for i in others]
            rest = [take(x, new) if x.size == slot.size else x.reshape(()) for x in rest]
            y = take(jnp.ravel(values[slot]), new)
            low, high = inverse.image
            inside = jnp.all((y > low) & (y < high)) if inverse.image != UNBOUNDED else True
            return [inverse.function(step.equation.params, y, *rest)], inside

        yield [operand], [new], compute


def _whole(step: Step, places: list, setting: Setting, known: dict):
    """The whole of what is unknown, from the whole of the result."""
    if any(s in known and not known[s].all() for s in step.results):
        return
    if any(_is_known(step.operands[at], setting, known).any() for at in places):
        return
    if len(places) == 1 and len(step.results) == 1:
        inverse = linear_inverse(step, places[0], setting.facts)
        if inverse is not None:

            def compute(values, new):
                rest = [_value(values, o) for o in step.operands]
                return [inverse(values[step.results[0]], rest)], True

            operand = step.operands[places[0]]
            yield [operand], [np.ones(operand.shape, bool)], compute
            return
    made = [at for at, s in enumerate(step.results) if s in known]
    lifted = setting.lift(step, places, made)
    if lifted is None or lifted.invert is None:
        return

    def compute(values, *new):
        given = [None if i in places else _value(values, o) for i, o in enumerate(step.operands)]
        return lifted.invert(given, {k: values[step.results[k]] for k in made})

    slots = [step.operands[at] for at in places]
    yield slots, [np.ones(s.shape, bool) for s in slots], compute
