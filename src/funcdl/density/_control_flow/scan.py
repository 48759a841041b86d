"""A scan as one step of the chain rule: over layers, or over slices of x."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import Scan, scan_parts
from funcdl.density._control_flow.base import Engine, Lifted, back_through, constants
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, program

# different bodies of one scan, told apart by the constants that it reads
_CLASSES = 4


def scan(equation, places, made, static, engine) -> Lifted | None:
    parts = scan_parts(equation.eqn)
    first, last = parts.consts, parts.consts + parts.carry
    over_layers = all(first <= at < last for at in places)
    over_slices = all(at >= last for at in places)
    if over_layers and made != [at - first for at in places]:
        return None
    if over_layers and not is_separate(parts.body, places, made, parts):
        return None
    if over_slices and any(at < parts.carry for at in made):
        return None
    if not (over_layers or over_slices):
        return None
    return _scanned(equation, parts, (places, made), static, engine)


def is_separate(body, places: Sequence[int], made: Sequence[int], parts) -> bool:
    """Whether nothing else that is carried tells the carried x of earlier steps about x."""
    whole = program(body, places, made)
    others = [k for k in range(parts.carry) if k not in made]
    tainted = {k for k in others if whole.outputs[k] in whole.dynamic}
    while True:
        again = program(body, [parts.consts + k for k in tainted], made)
        grown = tainted | {k for k in others if again.outputs[k] in again.dynamic}
        if grown == tainted:
            return not any(again.outputs[k] in again.dynamic for k in made)
        tainted = grown


class Loop(NamedTuple):
    """A loop whose bodies are analyzed.

    Attributes:
        parts: Body and counts.
        places: Positions of the operands that are mapped.
        made: Positions of the results that they are mapped to.
        bodies: Analyzed, one a class of steps.
        kinds: The class of each step.
        engine: For the bodies.
    """

    parts: Scan
    places: list
    made: list
    bodies: list
    kinds: np.ndarray
    engine: Engine

    def operands(self, given: Sequence) -> tuple:
        """Split operands into constants, carry and sequences."""
        first, last = self.parts.consts, self.parts.consts + self.parts.carry
        return given[:first], given[first:last], given[last:]

    def run(self, kind, args: Sequence) -> tuple:
        """Evaluate the body of a class, and its log-determinant."""
        options = [lambda *args, b=b: self.engine.run(b, args) for b in self.bodies]
        return options[0](*args) if len(options) == 1 else jax.lax.switch(kind, options, *args)

    def invert(self, kind, targets: list, args: Sequence) -> tuple:
        """Invert the body of a class; None among the arguments is unknown."""
        given = {at: x for at, x in enumerate(args) if x is not None}
        options = [partial(back_through, self.engine.invert, b, len(args)) for b in self.bodies]
        if len(options) == 1:
            return options[0](targets, given)
        return jax.lax.switch(kind, options, targets, given)


def _scanned(
    equation: Equation, parts: Scan, main: tuple, static: StaticValues, engine: Engine
) -> Lifted:
    last, length = parts.consts + parts.carry, parts.options["length"]
    known = constants(equation, static)
    fixed = {at: x for at, x in known.items() if at < parts.consts}
    sequences = {at: x for at, x in known.items() if at >= last}
    kinds, members = _classes(sequences, length)
    slices = [{} if m is None else {at: x[m] for at, x in sequences.items()} for m in members]
    bodies = [engine.analyze(parts.body, *main, fixed | these) for these in slices]
    loop = Loop(parts, *main, bodies, kinds, engine)
    over_layers = main[0][0] < last
    kind = f"scan over {length} {'layers' if over_layers else 'slices'}"
    back = layers_back if over_layers else _slices_back
    return Lifted(equation, partial(_ahead, loop), partial(back, loop), bodies, kind)


def _ahead(loop: Loop, *operands) -> tuple:
    """Evaluate a scan, and the sum of the log-determinants of its bodies."""
    fixed, carry, xs = loop.operands(operands)

    def body(state, at):
        carry, total = state
        kind, xs = at
        outs, log_det = loop.run(kind, (*fixed, *carry, *xs))
        return (outs[: loop.parts.carry], total + log_det), outs[loop.parts.carry :]

    start = list(map(jnp.asarray, carry)), jnp.zeros((), loop.bodies[0].program.dtype)
    along = jnp.asarray(loop.kinds), xs
    (carry, total), ys = jax.lax.scan(body, start, along, **loop.parts.options)
    return [*carry, *ys], total


def layers_back(loop: Loop, operands: Sequence, results: dict) -> tuple:
    """Undo the layers, last first; what else is carried is computed forward before."""
    parts, made = loop.parts, loop.made
    fixed, carry, xs = loop.operands(operands)
    others = [k for k in range(parts.carry) if k not in made]
    zeros = {k: jnp.zeros_like(results[k]) for k in made}

    def ahead(state, at):
        kind, xs = at
        full = zeros | dict(zip(others, state))
        outs, _ = loop.run(kind, (*fixed, *(full[k] for k in range(parts.carry)), *xs))
        return [outs[k] for k in others], state

    along = jnp.asarray(loop.kinds), xs
    start = [jnp.asarray(carry[k]) for k in others]
    carried = jax.lax.scan(ahead, start, along, **parts.options)[1] if others else []

    def undo(state, at):
        targets, reached = state
        (kind, xs), carried = at
        full = dict.fromkeys(made) | dict(zip(others, carried))
        args = [*fixed, *(full[k] for k in range(parts.carry)), *xs]
        found, inside = loop.invert(kind, targets, args)
        return (found, reached & inside), None

    options = parts.options | {"reverse": not parts.options["reverse"]}
    start = [results[k] for k in made], jnp.asarray(True)
    return jax.lax.scan(undo, start, (along, carried), **options)[0]


def _slices_back(loop: Loop, operands: Sequence, results: dict) -> tuple:
    """Undo the slices in their order: each gives what the next one's carry is computed from."""
    parts = loop.parts
    fixed, carry, xs = loop.operands(operands)
    known = {at: x for at, x in enumerate(xs) if x is not None}
    ys = [results[k] for k in loop.made]

    def undo(state, at):
        carry, reached = state
        kind, known, ys = at
        slices = [known.get(at) for at in range(len(xs))]
        found, inside = loop.invert(kind, ys, [*fixed, *carry, *slices])
        for place, x in zip(loop.places, found):
            slices[place - parts.consts - parts.carry] = x
        outs, _ = loop.run(kind, (*fixed, *carry, *slices))
        return (outs[: parts.carry], reached & inside), found

    start = list(map(jnp.asarray, carry)), jnp.asarray(True)
    along = jnp.asarray(loop.kinds), known, ys
    (_, reached), found = jax.lax.scan(undo, start, along, **parts.options)
    return found, reached


def _classes(sequences: dict, length: int) -> tuple[np.ndarray, list]:
    """Tell the steps of a scan apart by the constants they read."""
    one = np.zeros(length, np.int32), [None]
    if not sequences or length == 0:
        return one
    rows = [b"".join(np.ascontiguousarray(x[t]).tobytes() for x in sequences.values())
            for t in range(length)]  # fmt: skip
    distinct = list(dict.fromkeys(rows))
    if len(distinct) > _CLASSES:
        return one
    return np.array([distinct.index(r) for r in rows], np.int32), [rows.index(d) for d in distinct]
