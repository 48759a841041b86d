"""The way back through a step: its operands from its results."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from funcdl.density._inversion.context import Setting, is_known, value_of
from funcdl.density._primitives.edges import take, unit
from funcdl.density._primitives.interval import UNBOUNDED
from funcdl.density._primitives.table import inverse_of, is_elementwise, is_move, record
from funcdl.density._program.program import Slot, Step


def back(step: Step, setting: Setting, known: dict):
    """What follows from the results."""
    if not any(s in known and known[s].any() for s in step.results):
        return
    places = [
        at
        for at, o in enumerate(step.operands)
        if isinstance(o, Slot) and o in setting.dynamic and not is_known(o, setting, known).all()
    ]
    if not places:
        return
    if is_move(step.name) and not (
        step.name == "select_n" and setting.facts.value(step.operands[0]) is None
    ):
        yield from _unmoved(step, places, setting, known)
    elif is_elementwise(step.name):
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
            new &= np.broadcast_to(is_known(step.operands[i], setting, known), slot.shape).ravel()
        if not new.any():
            continue

        def compute(values, new, inverse=inverse, others=others):
            rest = [
                jnp.broadcast_to(value_of(values, step.operands[i]), slot.shape) for i in others
            ]
            rest = [take(jnp.ravel(x), new) for x in rest]
            y = take(jnp.ravel(values[slot]), new)
            low, high = inverse.image
            inside = jnp.all((y > low) & (y < high)) if inverse.image != UNBOUNDED else True
            return [inverse.function(step.equation.params, y, *rest)], inside

        yield [operand], [new], compute


def _whole(step: Step, places: list, setting: Setting, known: dict):
    """The whole of what is unknown, from the whole of the result."""
    if any(s in known and not known[s].all() for s in step.results):
        return
    if any(is_known(step.operands[at], setting, known).any() for at in places):
        return
    if len(places) == 1 and len(step.results) == 1:
        inverse = _solved(step, places[0], setting)
        if inverse is not None:

            def compute(values, _new):
                rest = [value_of(values, o) for o in step.operands]
                return [inverse(values[step.results[0]], rest)], True

            operand = step.operands[places[0]]
            yield [operand], [np.ones(operand.shape, bool)], compute
            return
    made = [at for at, s in enumerate(step.results) if s in known]
    lifted = setting.lift(step, places, made)
    if lifted is None or lifted.invert is None:
        return

    def compute(values, *_new):
        given = [None if i in places else value_of(values, o) for i, o in enumerate(step.operands)]
        return lifted.invert(given, {k: values[step.results[k]] for k in made})

    slots = [step.operands[at] for at in places]
    yield slots, [np.ones(s.shape, bool) for s in slots], compute


def _solved(step: Step, place: int, setting: Setting) -> Callable | None:
    """The way back through a linear operation that keeps the number of numbers."""
    solve = record(step.name).solve
    square = step.operands[place].size == step.results[0].size
    return solve(step, place, setting.facts) if solve and square else None
