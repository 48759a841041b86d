r"""Loops and branches as one step of the chain rule: the log-determinant is taken inside them.

A scan over layers carries x; its log-determinant is the sum of its body's. A scan over dimensions
reads x one slice a step and writes y so; its Jacobian is block triangular, whatever it carries.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import Scan, called, interpret, scan_parts, subjaxprs, while_parts
from funcdl.density._program import Segment, Slot, Step, program
from funcdl.density._rule import evaluate, rule_of
from funcdl.density._static import Facts

# different bodies of one scan, told apart by the constants that it reads
_CLASSES = 4


class Engine(NamedTuple):
    """What treats the jaxprs inside a step.

    Attributes:
        analyse: ``(jaxpr, main_in, main_out, known) -> analysis``.
        run: ``(analysis, args) -> (outputs, log_det)``.
        invert: ``(analysis, targets, args) -> (main inputs, reached)``.
    """

    analyse: Callable
    run: Callable
    invert: Callable


class Lifted(NamedTuple):
    """A step that computes its own log-determinant.

    Attributes:
        step: The step.
        run: ``(*operands) -> (results, log_det)``.
        invert: ``(operands, results by position) -> (unknown operands in turn, reached)``, with
            None for each unknown operand; None if there is no way back.
        analyses: Of the jaxprs inside.
        kind: What it is, in words.
    """

    step: Step
    run: Callable
    invert: Callable | None
    analyses: list
    kind: str


def lift(segment: Segment, facts: Facts, engine: Engine) -> Lifted | None:
    """Take the log-determinant of a segment inside its only step.

    Args:
        segment: Any.
        facts: Of the program around.
        engine: For the jaxprs inside.

    Returns:
        None if the segment has several steps, or its step does not map what it consumes to what
        it leaves alone.
    """
    if len(segment.steps) != 1:
        return None
    (step,) = segment.steps
    consumed = [s for s in segment.inputs if s not in segment.outputs]
    places = [at for at, o in enumerate(step.operands) if isinstance(o, Slot) and o in consumed]
    made = [at for at, s in enumerate(step.results) if s in segment.outputs]
    new = [s for s in segment.outputs if s not in segment.inputs]
    if len(places) != len(consumed) or len(made) != len(new):
        return None
    return lift_step(step, places, made, facts, engine)


def lift_step(step: Step, places: list, made: list, facts: Facts, engine: Engine) -> Lifted | None:
    """Treat a step as a square map.

    Args:
        step: Any.
        places: Positions of the operands that it maps.
        made: Positions of the results that it maps them to.
        facts: Of the program around.
        engine: For the jaxprs inside.

    Returns:
        None if it is no such map, or has no jaxpr inside.
    """
    rule = _RULES.get(step.equation.primitive.name)
    before = sum(step.operands[at].size for at in places)
    square = before == sum(step.results[at].size for at in made) and before > 0
    return rule(step, places, made, facts, engine) if rule and square else None


def _cond(step, places, made, facts, engine) -> Lifted | None:
    if 0 in places:
        return None
    known = {at - 1: x for at, x in _known(step, facts).items() if at}
    index = facts.value(step.operands[0])
    if index is not None:
        return _chosen(step, int(index), places, made, known, engine)
    branches = [
        engine.analyse(branch, [at - 1 for at in places], made, known)
        for branch in subjaxprs(step.equation)
    ]

    def evaluate(index, *operands):
        options = [lambda *args, b=b: engine.run(b, args) for b in branches]
        return jax.lax.switch(jnp.asarray(index, int), options, *operands)

    def invert(operands, results):
        index, *rest = operands
        given = {at: x for at, x in enumerate(rest) if x is not None}
        options = [partial(_back_through, engine.invert, b, len(rest)) for b in branches]
        return jax.lax.switch(jnp.asarray(index, int), options, [results[k] for k in made], given)

    return Lifted(step, evaluate, invert, branches, "branches")


def _chosen(step, index: int, places, made, known, engine) -> Lifted:
    """A branch that is chosen before the program runs."""
    options = list(subjaxprs(step.equation))
    branch = options[min(max(index, 0), len(options) - 1)]
    inside = engine.analyse(branch, [at - 1 for at in places], made, known)

    def invert(operands, results):
        return engine.invert(inside, [results[k] for k in made], operands[1:])

    return Lifted(step, lambda _, *args: engine.run(inside, args), invert, [inside], "one branch")


def _back_through(invert: Callable, analysis, count: int, targets: list, given: dict) -> tuple:
    found, reached = invert(analysis, targets, [given.get(at) for at in range(count)])
    return found, jnp.asarray(reached)


def _known(step: Step, facts: Facts) -> dict:
    known = {at: facts.value(o) for at, o in enumerate(step.operands)}
    return {at: x for at, x in known.items() if x is not None}


def _scan(step, places, made, facts, engine) -> Lifted | None:
    parts = scan_parts(step.equation)
    first, last = parts.consts, parts.consts + parts.carry
    over_layers = all(first <= at < last for at in places)
    over_slices = all(at >= last for at in places)
    if over_layers and made != [at - first for at in places]:
        return None
    if over_layers and not _separate(parts.body, places, made, parts):
        return None
    if over_slices and any(at < parts.carry for at in made):
        return None
    if not (over_layers or over_slices):
        return None
    return _scanned(step, parts, (places, made), facts, engine)


def _separate(body, places: Sequence[int], made: Sequence[int], parts) -> bool:
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


def _scanned(step: Step, parts: Scan, main: tuple, facts: Facts, engine) -> Lifted:
    last = parts.consts + parts.carry
    known = _known(step, facts)
    consts = {at: x for at, x in known.items() if at < parts.consts}
    sequences = {at: x for at, x in known.items() if at >= last}
    kinds, members = _classes(sequences, parts.options["length"])
    bodies = [
        engine.analyse(parts.body, *main, consts | {at: x[member] for at, x in sequences.items()})
        if member is not None
        else engine.analyse(parts.body, *main, consts)
        for member in members
    ]

    def evaluate(*operands):
        fixed, carry, xs = (
            operands[: parts.consts],
            operands[parts.consts : last],
            operands[last:],
        )

        def body(state, at):
            carry, total = state
            kind, xs = at
            options = [lambda *args, b=b: engine.run(b, args) for b in bodies]
            args = (*fixed, *carry, *xs)
            outs, log_det = (
                options[0](*args) if len(options) == 1 else jax.lax.switch(kind, options, *args)
            )
            return (outs[: parts.carry], total + log_det), outs[parts.carry :]

        dtype = bodies[0].program.dtype
        start = list(map(jnp.asarray, carry)), jnp.zeros((), dtype)
        state, ys = jax.lax.scan(body, start, (jnp.asarray(kinds), xs), **parts.options)
        return [*state[0], *ys], state[1]

    over = "slices" if main[0][0] >= last else "layers"
    back = _layers_back if over == "layers" else _slices_back
    invert = partial(back, parts, main, bodies, kinds, engine)
    return Lifted(step, evaluate, invert, bodies, f"scan over {parts.options['length']} {over}")


def _layers_back(parts: Scan, main: tuple, bodies: list, kinds, engine, operands, results):
    """Undo the layers, last first; what else is carried is computed forward before."""
    places, made = main
    last = parts.consts + parts.carry
    fixed, carry, xs = operands[: parts.consts], operands[parts.consts : last], operands[last:]
    others = [k for k in range(parts.carry) if k not in made]
    start = [jnp.asarray(carry[k]) for k in others]
    shapes = {k: bodies[0].program.inputs[parts.consts + k] for k in made}
    zeros = {k: jnp.zeros(s.shape, s.dtype) for k, s in shapes.items()}

    def ahead(state, xs):
        full = zeros | dict(zip(others, state))
        outs, _ = engine.run(bodies[0], (*fixed, *(full[k] for k in range(parts.carry)), *xs))
        return [outs[k] for k in others], state

    _, carried = jax.lax.scan(ahead, start, xs, **parts.options) if others else (None, [])

    def undo(state, at):
        targets, reached = state
        kind, carried, xs = at
        full = dict.fromkeys(made) | dict(zip(others, carried))
        args = [*fixed, *(full[k] for k in range(parts.carry)), *xs]
        found, inside = _one_of(bodies, engine, kind, targets, args)
        return (found, reached & inside), None

    options = parts.options | {"reverse": not parts.options["reverse"]}
    state = [results[k] for k in made], jnp.asarray(True)
    state, _ = jax.lax.scan(undo, state, (jnp.asarray(kinds), carried, xs), **options)
    return state


def _slices_back(parts: Scan, main: tuple, bodies: list, kinds, engine, operands, results):
    """Undo the slices in their order: each gives what the next one's carry is computed from."""
    places, made = main
    last = parts.consts + parts.carry
    fixed, carry, xs = operands[: parts.consts], operands[parts.consts : last], operands[last:]
    known = {at: x for at, x in enumerate(xs) if x is not None}
    ys = {k: results[k] for k in made}

    def undo(state, at):
        carry, reached = state
        kind, known, ys = at
        slices = [known.get(at) for at in range(len(xs))]
        found, inside = _one_of(
            bodies, engine, kind, [ys[k] for k in made], [*fixed, *carry, *slices]
        )
        for place, x in zip(places, found):
            slices[place - last] = x
        options = [lambda *args, b=b: engine.run(b, args)[0] for b in bodies]
        args = (*fixed, *carry, *slices)
        outs = options[0](*args) if len(bodies) == 1 else jax.lax.switch(kind, options, *args)
        return (outs[: parts.carry], reached & inside), found

    state = list(map(jnp.asarray, carry)), jnp.asarray(True)
    (_, reached), found = jax.lax.scan(
        undo, state, (jnp.asarray(kinds), known, ys), **parts.options
    )
    return found, reached


def _one_of(bodies: list, engine: Engine, kind, targets: list, args: list) -> tuple:
    """Invert the body of this step."""
    given = {at: x for at, x in enumerate(args) if x is not None}
    options = [partial(_back_through, engine.invert, b, len(args)) for b in bodies]
    if len(bodies) == 1:
        return options[0](targets, given)
    return jax.lax.switch(kind, options, targets, given)


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


def _while(step, places, made, facts, engine) -> Lifted | None:
    parts = while_parts(step.equation)
    skip = parts.test_consts + parts.consts
    shifted = [at - parts.test_consts for at in places]
    parts_as_scan = Scan(parts.body, parts.consts, len(step.results), {})
    if any(at < skip for at in places) or made != [at - skip for at in places]:
        return None
    if not _separate(parts.body, shifted, made, parts_as_scan):
        return None
    known = _known(step, facts)
    consts = {at - parts.test_consts: known[at] for at in known if parts.test_consts <= at < skip}
    body = engine.analyse(parts.body, shifted, made, consts)
    trips = _trips(step, parts, facts)

    def evaluate(*operands):
        test_consts, fixed = operands[: parts.test_consts], operands[parts.test_consts : skip]
        test = _function(parts.test)

        def one(state):
            carry, total = state
            outs, log_det = engine.run(body, (*fixed, *carry))
            return outs, total + log_det

        dtype = body.program.dtype
        start = list(map(jnp.asarray, operands[skip:])), jnp.zeros((), dtype)
        if trips is not None:
            state, _ = jax.lax.scan(lambda s, _: (one(s), None), start, None, length=trips)
            return state
        return jax.lax.while_loop(lambda s: test(*test_consts, *s[0])[0], one, start)

    def invert(operands, results):
        inside = parts_as_scan._replace(options={"length": trips, "reverse": False, "unroll": 1})
        moved = operands[parts.test_consts :]
        line = np.zeros(trips, np.int32)
        return _layers_back(inside, (shifted, made), [body], line, engine, moved, results)

    back = None if trips is None else invert
    return Lifted(
        step, evaluate, back, [body], f"loop of {'unknown' if trips is None else trips} trips"
    )


def _function(jaxpr) -> Callable:
    return lambda *args: interpret(
        jaxpr, list(args), lambda e, operands, plainly: plainly(*operands)
    )


def _trips(step: Step, parts, facts: Facts) -> int | None:
    """Count the trips of a loop whose test reads only constants that it counts itself."""
    skip = parts.test_consts + parts.consts
    test = program(parts.test, [], [])
    read = {s for st in test.steps for s in st.slots}
    needed = {k for k in range(len(step.results)) if test.inputs[parts.test_consts + k] in read}
    body = program(parts.body, [], [])
    while True:
        grown = needed | {k for k in range(len(step.results))
                          if any(_feeds(body, parts.consts + k, m) for m in needed)}  # fmt: skip
        if grown == needed:
            break
        needed = grown
    values = {k: facts.value(step.operands[skip + k]) for k in needed}
    known = _known(step, facts)
    if any(v is None for v in values.values()):
        return None
    for trip in range(1 << 16):
        answer = _constant(
            parts.test,
            parts.test_consts,
            values,
            {at: x for at, x in known.items() if at < parts.test_consts},
            [0],
        )
        if answer is None:
            return None
        if not answer[0]:
            return trip
        fixed = {
            at - parts.test_consts: x for at, x in known.items() if parts.test_consts <= at < skip
        }
        after = _constant(parts.body, parts.consts, values, fixed, sorted(needed))
        if after is None:
            return None
        values = dict(zip(sorted(needed), after))
    return None


def _constant(jaxpr, consts: int, values: dict, fixed: dict, outputs: list) -> list | None:
    """Evaluate some outputs of a jaxpr whose inputs are partly known."""
    whole = program(jaxpr, [], [], fixed | {consts + k: v for k, v in values.items()})
    facts = Facts(whole)
    found = [facts.value(whole.outputs[k]) for k in outputs]
    return None if any(v is None for v in found) else found


def _feeds(body, at: int, out: int) -> bool:
    return (
        body.outputs[out]
        in type(body)(body.steps, body.inputs, body.outputs, [body.inputs[at]], []).dynamic
    )


def _by_rule(step, places, made, facts, engine) -> Lifted | None:
    """What the user says of a function of all that it is given as x."""
    rule = rule_of(step.equation)
    if rule is None:
        return None
    leaves = range(len(step.operands))
    x, args = jax.tree.unflatten(rule.structure, leaves)
    if places != [at for at in jax.tree.leaves(x) if step.operands[at].is_float]:
        return None
    if rule.inverse is None:
        body = engine.analyse(called(step.equation), places, made, {})

        def invert(operands, results):
            return engine.invert(body, [results[k] for k in made], operands)

    else:

        def invert(operands, results):
            rest = [operands[at] for at in jax.tree.leaves(args)]
            y = jax.tree.unflatten(rule.out, [results[k] for k in range(len(step.results))])
            args_given = jax.tree.unflatten(jax.tree.structure(args), rest)
            return jax.tree.leaves(rule.inverse(y, *args_given)), True

    def run(*operands):
        return evaluate(step.equation, rule, operands)

    return Lifted(step, run, invert, [], "a rule of the user's")


_RULES = {"scan": _scan, "cond": _cond, "while": _while, "jit": _by_rule, "pjit": _by_rule}
