"""A equation that takes its own log-determinant, and what that needs."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation


class Engine(NamedTuple):
    """What treats the jaxprs inside an equation.

    Attributes:
        analyze: ``(jaxpr, main_in, main_out, known) -> analysis``.
        run: ``(analysis, args) -> (outputs, log_det)``.
        invert: ``(analysis, targets, args) -> (main inputs, reached)``.
    """

    analyze: Callable
    run: Callable
    invert: Callable


class Lifted(NamedTuple):
    """A equation that computes its own log-determinant.

    Attributes:
        equation: The equation.
        run: ``(*operands) -> (results, log_det)``.
        invert: ``(operands, results by position) -> (unknown operands in turn, reached)``, with
            None for each unknown operand; None if there is no way back.
        analyses: Of the jaxprs inside.
        kind: What it is, in words.
    """

    equation: Equation
    run: Callable
    invert: Callable | None
    analyses: list
    kind: str


def back_through(invert: Callable, analysis, count: int, targets: list, given: dict) -> tuple:
    found, reached = invert(analysis, targets, [given.get(at) for at in range(count)])
    return found, jnp.asarray(reached)


def constants(equation: Equation, static: StaticValues) -> dict:
    known = {at: static.value(o) for at, o in enumerate(equation.operands)}
    return {at: x for at, x in known.items() if x is not None}
