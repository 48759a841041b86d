"""A while loop as one equation of the chain rule; a scan if its iterations can be counted."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from funcdl._jaxpr import Scan, While, interpret, while_parts
from funcdl._typing import ArrayLike, Function
from funcdl.density._control_flow.base import Engine, NestedEquation, constants
from funcdl.density._control_flow.scan import Loop, is_separate, layers_back, undone
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, Jaxpr, Program, program


def while_loop(
    equation: Equation, mapped: list, images: list, static: StaticValues, engine: Engine
) -> NestedEquation | None:
    """Treat a loop that carries x as one equation; see ``dispatch.nested_equation``."""
    parts = while_parts(equation.eqn)
    skip = parts.test_consts + parts.consts
    shifted = [at - parts.test_consts for at in mapped]
    as_scan = Scan(parts.body, parts.consts, len(equation.results), {})
    if any(at < skip for at in mapped) or images != [at - skip for at in mapped]:
        return None
    if not is_separate(parts.body, shifted, images, as_scan):
        return None
    if any(v.aval.shape for v in getattr(parts.test, "jaxpr", parts.test).outvars):
        return None  # under vmap each lane stops by itself, so the steps have no common determinant
    known = constants(equation, static)
    consts = {at - parts.test_consts: known[at] for at in known if parts.test_consts <= at < skip}
    body = engine.analyze(parts.body, shifted, images, consts)
    trips = _trips(equation, parts, static)
    evaluate = partial(_evaluated, parts, partial(engine.run, body), body.program.dtype, trips)
    if trips is None:
        if _tests(parts, as_scan, images):
            return NestedEquation(
                equation, evaluate, None, [body], "a loop whose trips depend on x"
            )
        undo = partial(_undone, parts, partial(engine.run, body), partial(engine.invert, body))
        back = lambda operands, results: undo(images, operands, results)
        return NestedEquation(equation, evaluate, back, [body], "loop of unknown trips")
    counted = as_scan._replace(options={"length": trips, "reverse": False, "unroll": 1})
    kinds = np.zeros(trips, np.int32)
    loop = Loop(counted, shifted, images, bodies=[body], kinds=kinds, engine=engine)

    def invert(operands, results):
        return undone(loop, layers_back, operands[parts.test_consts :], results)

    return NestedEquation(equation, evaluate, invert, [body], f"loop of {trips} trips")


def _evaluated(
    parts: While, run: Callable, dtype: DTypeLike, trips: int | None, *operands: ArrayLike
) -> tuple:
    """Evaluate a loop and the sum of the log-determinants of its iterations.

    Args:
        parts: The test and the body of the loop, and the counts of their constants.
        run: ``operands of the body -> (carry, log_det)``.
        dtype: The dtype of the log-determinant.
        trips: The number of iterations if it is a constant; the loop is then a scan, which has
            derivatives in reverse mode.
        operands: The operands of the loop.

    Returns:
        The carry and the log-determinant.
    """
    skip = parts.test_consts + parts.consts
    test_consts, fixed = operands[: parts.test_consts], operands[parts.test_consts : skip]
    test = _function(parts.test)

    def iterate(state):
        carry, total = state
        outs, log_det = run((*fixed, *carry))
        return outs, total + log_det

    start = list(map(jnp.asarray, operands[skip:])), jnp.zeros((), dtype)
    if trips is not None:
        return jax.lax.scan(lambda s, _: (iterate(s), None), start, None, length=trips)[0]
    return jax.lax.while_loop(lambda s: test(*test_consts, *s[0])[0], iterate, start)


def _tests(parts: While, loop: Scan, images: list) -> bool:
    """Tell whether the test of a loop depends on x, or on a value that is computed from x."""
    others = [k for k in range(loop.carry) if k not in images]
    tainted = set(images)
    while True:
        main_in = [parts.consts + k for k in tainted]
        body = program(parts.body, main_in, [])
        grown = tainted | {k for k in others if body.outputs[k] in body.dynamic}
        if grown == tainted:
            break
        tainted = grown
    test = program(parts.test, [parts.test_consts + k for k in tainted], [])
    return test.outputs[0] in test.dynamic


def _undone(
    parts: While, run: Callable, invert: Callable, images: list, operands: list, results: dict
) -> tuple:
    """Undo a loop whose trips are counted at run time, from values that do not depend on x.

    The other carries of each iteration are computed again from the first one, because storing
    them takes a number of iterations that is known while tracing.

    Args:
        parts: The test and the body of the loop, and the counts of their constants.
        run: ``operands of the body -> (carry, log_det)``.
        invert: ``(targets, operands of the body) -> (x, reached)``, where x is None.
        images: The positions of x in the carry.
        operands: The operands of the loop; x is None.
        results: The results, by position.

    Returns:
        x, and whether it exists.
    """
    skip = parts.test_consts + parts.consts
    test_consts, fixed = operands[: parts.test_consts], operands[parts.test_consts : skip]
    test, start = _function(parts.test), dict(enumerate(operands[skip:]))
    zeros = {k: jnp.zeros_like(results[k]) for k in images}
    others = {k: jnp.asarray(x) for k, x in start.items() if k not in images}

    def full(state: dict, x: dict) -> list:
        return [(x | state)[k] for k in range(len(start))]

    def ahead(state: dict) -> dict:
        outs, _ = run((*fixed, *full(state, zeros)))
        return {k: outs[k] for k in state}

    def count(state: tuple) -> tuple:
        return ahead(state[0]), state[1] + 1

    is_on = lambda state: test(*test_consts, *full(state[0], zeros))[0]
    _, trips = jax.lax.while_loop(is_on, count, (others, jnp.zeros((), int)))

    def back(state: tuple) -> tuple:
        left, targets, reached = state
        before = jax.lax.fori_loop(0, left - 1, lambda _, s: ahead(s), others)
        x, in_image = invert(targets, [*fixed, *full(before, dict.fromkeys(images))])
        return left - 1, x, reached & in_image

    targets = [jnp.asarray(results[k]) for k in images]
    first = trips, targets, jnp.asarray(True)
    _, x, reached = jax.lax.while_loop(lambda s: s[0] > 0, back, first)
    return x, reached


def _function(jaxpr: Jaxpr) -> Function:
    """Return a jaxpr as a function."""
    return lambda *args: interpret(
        jaxpr, list(args), lambda _e, operands, plainly: plainly(*operands)
    )


def _trips(equation: Equation, parts: While, static: StaticValues) -> int | None:
    """Count the iterations of a loop by running it on the values that its test depends on.

    Args:
        equation: The loop.
        parts: The test and the body of the loop, and the counts of their constants.
        static: The static values of the program that contains the loop.

    Returns:
        The number of iterations; None if the test depends on a value that is not a constant, or if
        there are more than 65 536 iterations.
    """
    skip = parts.test_consts + parts.consts
    test = program(parts.test, [], [])
    read = {s for st in test.equations for s in st.variables}
    needed = {k for k in range(len(equation.results)) if test.inputs[parts.test_consts + k] in read}
    body = program(parts.body, [], [])
    while True:
        grown = needed | {k for k in range(len(equation.results))
                          if any(_feeds(body, parts.consts + k, m) for m in needed)}  # fmt: skip
        if grown == needed:
            break
        needed = grown
    values = {k: static.value(equation.operands[skip + k]) for k in needed}
    known = constants(equation, static)
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


def _constant(jaxpr: Jaxpr, consts: int, values: dict, fixed: dict, outputs: list) -> list | None:
    """Evaluate some outputs of a jaxpr while tracing, with only some of its inputs known.

    Args:
        jaxpr: The jaxpr.
        consts: The number of its inputs that are constants of the loop.
        values: The values of the carried inputs that are known, by position in the carry.
        fixed: The values of the constants that are known, by position.
        outputs: The positions of the outputs.

    Returns:
        The values of the outputs; None if one of them is unknown.
    """
    whole = program(jaxpr, [], [], fixed | {consts + k: v for k, v in values.items()})
    static = StaticValues(whole)
    results = [static.value(whole.outputs[k]) for k in outputs]
    return None if any(v is None for v in results) else results


def _feeds(body: Program, at: int, out: int) -> bool:
    """Tell whether an output of a body depends on an input."""
    return body.outputs[out] in replace(body, main_in=[body.inputs[at]]).dynamic
