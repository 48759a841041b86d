"""A loop as one step of the chain rule; a scan, if its trips can be counted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import Scan, interpret, while_parts
from funcdl.density._control_flow.base import Lifted, constants
from funcdl.density._control_flow.scan import Loop, is_separate, layers_back
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, program


def while_loop(equation, places, made, static, engine) -> Lifted | None:
    parts = while_parts(equation.eqn)
    skip = parts.test_consts + parts.consts
    shifted = [at - parts.test_consts for at in places]
    as_scan = Scan(parts.body, parts.consts, len(equation.results), {})
    if any(at < skip for at in places) or made != [at - skip for at in places]:
        return None
    if not is_separate(parts.body, shifted, made, as_scan):
        return None
    known = constants(equation, static)
    consts = {at - parts.test_consts: known[at] for at in known if parts.test_consts <= at < skip}
    body = engine.analyze(parts.body, shifted, made, consts)
    trips = _trips(equation, parts, static)

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
        counted = as_scan._replace(options={"length": trips, "reverse": False, "unroll": 1})
        loop = Loop(counted, shifted, made, [body], np.zeros(trips, np.int32), engine)
        return layers_back(loop, operands[parts.test_consts :], results)

    back = None if trips is None else invert
    return Lifted(
        equation, evaluate, back, [body], f"loop of {'unknown' if trips is None else trips} trips"
    )


def _function(jaxpr) -> Callable:
    return lambda *args: interpret(
        jaxpr, list(args), lambda _e, operands, plainly: plainly(*operands)
    )


def _trips(equation: Equation, parts, static: StaticValues) -> int | None:
    """Count the trips of a loop whose test reads only constants that it counts itself."""
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


def _constant(jaxpr, consts: int, values: dict, fixed: dict, outputs: list) -> list | None:
    """Evaluate some outputs of a jaxpr whose inputs are partly known."""
    whole = program(jaxpr, [], [], fixed | {consts + k: v for k, v in values.items()})
    static = StaticValues(whole)
    found = [static.value(whole.outputs[k]) for k in outputs]
    return None if any(v is None for v in found) else found


def _feeds(body, at: int, out: int) -> bool:
    return (
        body.outputs[out]
        in type(body)(body.equations, body.inputs, body.outputs, [body.inputs[at]], []).dynamic
    )
