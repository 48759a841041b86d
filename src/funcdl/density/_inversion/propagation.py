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
from funcdl.density._primitives.interval import UNBOUNDED
from funcdl.density._primitives.local_jacobian import Everything, take, unit
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._primitives.table import inverse_of, is_elementwise, is_move, record
from funcdl.density._program.program import Equation, Segment, Variable

# rounds of forth and back; a triangular map would need one for each number
_ROUNDS = 4


class Setting(NamedTuple):
    """What a schedule is made from.

    Attributes:
        segment: The segment.
        dynamic: Slots that depend on x.
        reads_of: ``equation -> reads``.
        bounds: ``operand -> interval``.
        static: Constants and supports.
        lift: ``(equation, places, made) -> Lifted | None``.
    """

    segment: Segment
    dynamic: set
    reads_of: Callable
    bounds: Callable
    static: StaticValues
    lift: Callable


def value_of(values: dict, operand):
    """An operand's value; where nothing is known of it yet, what few functions are singular at."""
    if not isinstance(operand, Variable):
        return operand
    return values[operand] if operand in values else jnp.full(operand.shape, 0.5, operand.dtype)


def is_known(operand, setting: Setting, known: dict) -> np.ndarray:
    """Which numbers of an operand are known."""
    if not isinstance(operand, Variable):
        return np.ones(np.shape(operand), bool)
    if operand not in setting.dynamic:
        return np.ones(operand.shape, bool)
    return known.get(operand, np.zeros(operand.shape, bool))


class Move(NamedTuple):
    """One action of a schedule.

    Attributes:
        variables: What becomes known.
        new: For each which of its numbers, as positions.
        compute: ``(values, *new) -> (one array a variable, reached)``: its new numbers, and whether
            they exist.
    """

    variables: list[Variable]
    new: list[np.ndarray]
    compute: Callable


class Schedule(NamedTuple):
    """How far propagation comes.

    Attributes:
        moves: In order.
        unknown: For each input of the segment, which numbers are not known after them.
        known: Boolean arrays by variable.
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
    known: dict[Variable, np.ndarray] = {s: np.ones(s.shape, bool) for s in segment.outputs}
    moves: list[Move] = []

    def done() -> bool:
        return all(s in known and known[s].all() for s in segment.inputs)

    def learn(found) -> None:
        for variables, masks, compute in found:
            before = [known.get(s, np.zeros(s.shape, bool)) for s in variables]
            new = [np.flatnonzero(m.reshape(b.shape) & ~b) for m, b in zip(masks, before)]
            if any(map(len, new)):
                moves.append(Move(variables, new, compute))
                known.update(
                    (s, np.asarray(b | m.reshape(b.shape)))
                    for s, m, b in zip(variables, masks, before)
                )

    for _ in range(_ROUNDS):
        count = len(moves)
        for equation in reversed(segment.equations):
            learn(back(equation, setting, known))
        if done():
            break
        for equation in segment.equations:
            learn(_forth(equation, setting, known))
        if len(moves) == count:
            break
    unknown = {s: np.asarray(~known.get(s, np.zeros(s.shape, bool))) for s in segment.inputs}
    return Schedule(moves, unknown, known)


def follow(plan: Schedule, values: dict) -> tuple[dict, Array]:
    """Carry out a schedule.

    Args:
        plan: From ``schedule``.
        values: Of the known variables and of all that do not depend on x.

    Returns:
        The values, and whether every number that was inverted has a pre-image.
    """
    values = dict(values)
    all_reached = jnp.asarray(True)
    for move in plan.moves:
        found, reached = move.compute(values, *move.new)
        all_reached &= reached
        for variable, new, x in zip(move.variables, move.new, found):
            x = jnp.ravel(x).astype(variable.dtype)
            if len(new) < variable.size:
                x = jnp.ravel(value_of(values, variable)).at[new].set(x, unique_indices=True)
            values[variable] = x.reshape(variable.shape)
    return values, all_reached


def _forth(equation: Equation, setting: Setting, known: dict):
    """What follows from the operands."""
    masks = [is_known(o, setting, known) for o in equation.operands]
    for at, (variable, edges) in enumerate(zip(equation.results, setting.reads_of(equation))):
        if variable in known and known[variable].all():
            continue
        new = np.ones(variable.size, bool)
        for place, (operand, mask) in enumerate(zip(equation.operands, masks)):
            if not isinstance(operand, Variable) or operand not in setting.dynamic:
                continue
            read = edges.get(place)
            if read is None:
                new &= _without_slope(equation, variable, mask)
            elif isinstance(read, Everything):
                new &= mask.all()
            else:
                new[read.rows[~mask.ravel()[read.cols]]] = False
        if new.any():

            def compute(values, new, at=at):
                found = equation.evaluate(*(value_of(values, o) for o in equation.operands))[at]
                return [take(jnp.ravel(found), new)], True

            yield [variable], [new], compute


def _without_slope(equation: Equation, variable: Variable, mask: np.ndarray) -> np.ndarray:
    """Which numbers of a result follow from an operand that it has no derivative by."""
    if record(equation.name).pointwise and mask.size in (1, variable.size):
        return np.broadcast_to(mask.ravel(), (variable.size,))
    return np.broadcast_to(mask.all(), (variable.size,))


def back(equation: Equation, setting: Setting, known: dict):
    """What follows from the results."""
    if not any(s in known and known[s].any() for s in equation.results):
        return
    places = [
        at
        for at, o in enumerate(equation.operands)
        if isinstance(o, Variable)
        and o in setting.dynamic
        and not is_known(o, setting, known).all()
    ]
    if not places:
        return
    if is_move(equation.name) and not (
        equation.name == "select_n" and setting.static.value(equation.operands[0]) is None
    ):
        yield from _unmoved(equation, places, setting, known)
    elif is_elementwise(equation.name):
        yield from _elementwise(equation, places, setting, known)
    else:
        yield from _whole(equation, places, setting, known)


def _unmoved(equation: Equation, places: list, setting: Setting, known: dict):
    """A number of the operand is wherever the equation moved it."""
    for variable, edges in zip(equation.results, setting.reads_of(equation)):
        if variable not in known:
            continue
        for at in places:
            read = edges.get(at)
            if read is None or isinstance(read, Everything) or read.slope is not unit:
                continue
            shown = known[variable].ravel()[read.rows]
            source = np.full(equation.operands[at].size, -1)
            source[read.cols[shown]] = read.rows[shown]
            if (source >= 0).any():

                def compute(values, new, variable=variable, source=source):
                    return [take(jnp.ravel(values[variable]), source[new])], True

                yield [equation.operands[at]], [source >= 0], compute


def _elementwise(equation: Equation, places: list, setting: Setting, known: dict):
    """One operand from the result and the others."""
    variable = equation.results[0]
    if variable not in known:
        return
    for at in places:
        operand = equation.operands[at]
        others = [i for i in range(len(equation.operands)) if i != at]
        if operand.size != variable.size or any(equation.operands[i] is operand for i in others):
            continue
        inverse = inverse_of(equation.name, equation.eqn.params, at, setting.bounds(operand))
        if inverse is None:
            continue
        new = known[variable].ravel().copy()
        for i in others:
            new &= np.broadcast_to(
                is_known(equation.operands[i], setting, known), variable.shape
            ).ravel()
        if not new.any():
            continue

        def compute(values, new, inverse=inverse, others=others):
            rest = [
                jnp.broadcast_to(value_of(values, equation.operands[i]), variable.shape)
                for i in others
            ]
            rest = [take(jnp.ravel(x), new) for x in rest]
            y = take(jnp.ravel(values[variable]), new)
            low, high = inverse.image
            inside = jnp.all((y > low) & (y < high)) if inverse.image != UNBOUNDED else True
            return [inverse.function(equation.eqn.params, y, *rest)], inside

        yield [operand], [new], compute


def _whole(equation: Equation, places: list, setting: Setting, known: dict):
    """The whole of what is unknown, from the whole of the result."""
    if any(s in known and not known[s].all() for s in equation.results):
        return
    if any(is_known(equation.operands[at], setting, known).any() for at in places):
        return
    if len(places) == 1 and len(equation.results) == 1:
        inverse = _solved(equation, places[0], setting)
        if inverse is not None:

            def compute(values, _new):
                rest = [value_of(values, o) for o in equation.operands]
                return [inverse(values[equation.results[0]], rest)], True

            operand = equation.operands[places[0]]
            yield [operand], [np.ones(operand.shape, bool)], compute
            return
    made = [at for at, s in enumerate(equation.results) if s in known]
    lifted = setting.lift(equation, places, made)
    if lifted is None or lifted.invert is None:
        return

    def compute(values, *_new):
        given = [
            None if i in places else value_of(values, o) for i, o in enumerate(equation.operands)
        ]
        return lifted.invert(given, {k: values[equation.results[k]] for k in made})

    variables = [equation.operands[at] for at in places]
    yield variables, [np.ones(s.shape, bool) for s in variables], compute


def _solved(equation: Equation, place: int, setting: Setting) -> Callable | None:
    """The way back through a linear operation that keeps the number of numbers."""
    solve = record(equation.name).solve
    square = equation.operands[place].size == equation.results[0].size
    return solve(equation, place, setting.static) if solve and square else None
