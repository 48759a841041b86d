r"""Loops and branches as one equation of the chain rule: the log-determinant is taken inside them.

A scan over layers carries x; its log-determinant is the sum of its body's. A scan over dimensions
reads x one slice an equation and writes y so; its Jacobian is block triangular, whatever it
carries.
"""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl._jaxpr import called, subjaxprs
from funcdl.density._control_flow.base import Engine, Lifted, back_through, constants
from funcdl.density._control_flow.scan import scan
from funcdl.density._control_flow.while_loop import while_loop
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.custom_rules import evaluate, rule_of
from funcdl.density._program.program import Equation, Segment, Variable


def lift(segment: Segment, static: StaticValues, engine: Engine) -> Lifted | None:
    """Take the log-determinant of a segment inside its only equation.

    Args:
        segment: Any.
        static: Of the program around.
        engine: For the jaxprs inside.

    Returns:
        None if the segment has several equations, or its equation does not map what it consumes to
        what it leaves alone.
    """
    if len(segment.equations) != 1:
        return None
    (equation,) = segment.equations
    consumed = [s for s in segment.inputs if s not in segment.outputs]
    places = [
        at for at, o in enumerate(equation.operands) if isinstance(o, Variable) and o in consumed
    ]
    made = [at for at, s in enumerate(equation.results) if s in segment.outputs]
    new = [s for s in segment.outputs if s not in segment.inputs]
    if len(places) != len(consumed) or len(made) != len(new):
        return None
    return lift_step(equation, places, made, static, engine)


def lift_step(
    equation: Equation, places: list, made: list, static: StaticValues, engine: Engine
) -> Lifted | None:
    """Treat an equation as a square map.

    Args:
        equation: Any.
        places: Positions of the operands that it maps.
        made: Positions of the results that it maps them to.
        static: Of the program around.
        engine: For the jaxprs inside.

    Returns:
        None if it is no such map, or has no jaxpr inside.
    """
    rule = _RULES.get(equation.eqn.primitive.name)
    before = sum(equation.operands[at].size for at in places)
    square = before == sum(equation.results[at].size for at in made) and before > 0
    return rule(equation, places, made, static, engine) if rule and square else None


def _cond(equation, places, made, static, engine) -> Lifted | None:
    if 0 in places:
        return None
    known = {at - 1: x for at, x in constants(equation, static).items() if at}
    index = static.value(equation.operands[0])
    if index is not None:
        return _chosen(equation, int(index), places, made, known, engine)
    branches = [
        engine.analyze(branch, [at - 1 for at in places], made, known)
        for branch in subjaxprs(equation.eqn)
    ]

    def evaluate(index, *operands):
        options = [lambda *args, b=b: engine.run(b, args) for b in branches]
        return jax.lax.switch(jnp.asarray(index, int), options, *operands)

    def invert(operands, results):
        index, *rest = operands
        given = {at: x for at, x in enumerate(rest) if x is not None}
        options = [partial(back_through, engine.invert, b, len(rest)) for b in branches]
        return jax.lax.switch(jnp.asarray(index, int), options, [results[k] for k in made], given)

    return Lifted(equation, evaluate, invert, branches, "branches")


def _chosen(equation, index: int, places, made, known, engine) -> Lifted:
    """A branch that is chosen before the program runs."""
    options = list(subjaxprs(equation.eqn))
    branch = options[min(max(index, 0), len(options) - 1)]
    inside = engine.analyze(branch, [at - 1 for at in places], made, known)

    def invert(operands, results):
        return engine.invert(inside, [results[k] for k in made], operands[1:])

    return Lifted(
        equation, lambda _, *args: engine.run(inside, args), invert, [inside], "one branch"
    )


def _by_rule(equation, places, made, _facts, engine) -> Lifted | None:
    """What the user says of a function of all that it is given as x."""
    rule = rule_of(equation.eqn)
    if rule is None:
        return None
    leaves = range(len(equation.operands))
    x, args = jax.tree.unflatten(rule.structure, leaves)
    if places != [at for at in jax.tree.leaves(x) if equation.operands[at].is_float]:
        return None
    if rule.inverse is None:
        body = engine.analyze(called(equation.eqn), places, made, {})

        def invert(operands, results):
            return engine.invert(body, [results[k] for k in made], operands)

    else:

        def invert(operands, results):
            rest = [operands[at] for at in jax.tree.leaves(args)]
            y = jax.tree.unflatten(rule.out, [results[k] for k in range(len(equation.results))])
            args_given = jax.tree.unflatten(jax.tree.structure(args), rest)
            return jax.tree.leaves(rule.inverse(y, *args_given)), True

    def run(*operands):
        return evaluate(equation.eqn, rule, operands)

    return Lifted(equation, run, invert, [], "a rule of the user's")


_RULES = {"scan": scan, "cond": _cond, "while": while_loop, "jit": _by_rule, "pjit": _by_rule}
