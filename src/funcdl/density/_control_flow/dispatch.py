"""Loops and branches as one equation of the chain rule: their log-determinant is taken inside.

A scan over layers carries x, and its log-determinant is the sum of those of its iterations. A scan
over dimensions reads one slice of x and writes one slice of y per iteration, so its Jacobian is
block triangular whatever it carries.
"""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl._jaxpr import called, subjaxprs
from funcdl.density._control_flow.base import Engine, NestedEquation, back_through, constants
from funcdl.density._control_flow.scan import scan
from funcdl.density._control_flow.while_loop import while_loop
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.custom_rules import evaluate, rule_of
from funcdl.density._program.program import Equation, Segment, Variable


def nested_segment(segment: Segment, static: StaticValues, engine: Engine) -> NestedEquation | None:
    """Take the log-determinant of a segment inside its only equation.

    Args:
        segment: The segment.
        static: The static values of the program that contains the segment.
        engine: The functions that treat the jaxprs inside the equation.

    Returns:
        The equation with its log-determinant; None if the segment has several equations, or if
        its equation is not a map from the inputs that it consumes to the new outputs.
    """
    if len(segment.equations) != 1:
        return None
    (equation,) = segment.equations
    consumed = [s for s in segment.inputs if s not in segment.outputs]
    mapped = [
        at for at, o in enumerate(equation.operands) if isinstance(o, Variable) and o in consumed
    ]
    images = [at for at, s in enumerate(equation.results) if s in segment.outputs]
    new = [s for s in segment.outputs if s not in segment.inputs]
    if len(mapped) != len(consumed) or len(images) != len(new):
        return None
    return nested_equation(equation, mapped, images, static, engine)


def nested_equation(
    equation: Equation, mapped: list, images: list, static: StaticValues, engine: Engine
) -> NestedEquation | None:
    """Treat an equation that contains jaxprs as a map of n numbers to n numbers.

    Args:
        equation: The equation.
        mapped: The positions of the operands that it maps.
        images: The positions of the results that it maps them to.
        static: The static values of the program that contains the equation.
        engine: The functions that treat the jaxprs inside the equation.

    Returns:
        The equation with its log-determinant; None if the numbers differ or the equation is not a
        loop, branch or rule of a form that is known.
    """
    rule = _RULES.get(equation.eqn.primitive.name)
    n = sum(equation.operands[at].size for at in mapped)
    is_square = n == sum(equation.results[at].size for at in images) and n > 0
    return rule(equation, mapped, images, static, engine) if rule and is_square else None


def _cond(
    equation: Equation, mapped: list, images: list, static: StaticValues, engine: Engine
) -> NestedEquation | None:
    """Treat a branch: each alternative has its own analysis, and the index chooses one."""
    if 0 in mapped:
        return None
    known = {at - 1: x for at, x in constants(equation, static).items() if at}
    index = static.value(equation.operands[0])
    if index is not None:
        return _chosen(equation, int(index), mapped, images, known, engine)
    branches = [
        engine.analyze(branch, [at - 1 for at in mapped], images, known)
        for branch in subjaxprs(equation.eqn)
    ]

    def evaluate(index, *operands):
        options = [lambda *args, b=b: engine.run(b, args) for b in branches]
        return jax.lax.switch(jnp.asarray(index, int), options, *operands)

    def invert(operands, results):
        index, *args = operands
        known_args = {at: x for at, x in enumerate(args) if x is not None}
        options = [partial(back_through, engine.invert, b, len(args)) for b in branches]
        targets = [results[k] for k in images]
        return jax.lax.switch(jnp.asarray(index, int), options, targets, known_args)

    return NestedEquation(equation, evaluate, invert, branches, "branches")


def _chosen(
    equation: Equation, index: int, mapped: list, images: list, known: dict, engine: Engine
) -> NestedEquation:
    """Treat a branch whose index is a constant as the branch that it takes."""
    options = list(subjaxprs(equation.eqn))
    branch = options[min(max(index, 0), len(options) - 1)]  # lax.switch clamps its index too
    body = engine.analyze(branch, [at - 1 for at in mapped], images, known)

    def invert(operands, results):
        return engine.invert(body, [results[k] for k in images], operands[1:])

    run = lambda _, *args: engine.run(body, args)
    return NestedEquation(equation, run, invert, [body], "one branch")


def _by_rule(
    equation: Equation, mapped: list, images: list, _static: StaticValues, engine: Engine
) -> NestedEquation | None:
    """Treat a call of a function with a user's rule, if it maps all floats of its x."""
    rule = rule_of(equation.eqn)
    if rule is None:
        return None
    leaves = range(len(equation.operands))
    x, args = jax.tree.unflatten(rule.structure, leaves)
    if mapped != [at for at in jax.tree.leaves(x) if equation.operands[at].is_float]:
        return None
    body = engine.analyze(called(equation.eqn), mapped, images, {}) if not rule.inverse else None

    def run(*operands):
        return evaluate(equation.eqn, rule, operands)

    def invert(operands, results):
        if rule.inverse is None:
            return engine.invert(body, [results[k] for k in images], operands)
        y = jax.tree.unflatten(rule.out, [results[k] for k in range(len(equation.results))])
        values = jax.tree.map(lambda at: operands[at], args)
        return jax.tree.leaves(rule.inverse(y, *values)), True

    return NestedEquation(equation, run, invert, [], "a rule of the user's")


_RULES = {"scan": scan, "cond": _cond, "while": while_loop, "jit": _by_rule, "pjit": _by_rule}
