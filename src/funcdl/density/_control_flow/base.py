"""The types shared by all equations that contain jaxprs, and by the functions that treat them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from funcdl._typing import Array
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, Program


@dataclass(frozen=True, eq=False)
class Analysis:
    """A program with a plan for each of its segments.

    Attributes:
        program: The program.
        static: The static values of the program.
        segments: The segments of the program, in order.
        plans: One ``Plan`` or ``NestedEquation`` per segment.
        origin: The equation that computes each variable.
        reads_of: ``equation -> reads``, the local Jacobians of its results.
        value_reads_of: ``equation -> reads``, the numbers that the results are computed from.
        bounds: ``operand -> (low, high)``.
        nested: ``(equation, mapped, images, is_replaced=False) -> NestedEquation | None``; see
            ``dispatch.nested_equation`` and ``invert``.
    """

    program: Program
    static: StaticValues
    segments: list
    plans: list
    origin: dict
    reads_of: Callable
    value_reads_of: Callable
    bounds: Callable
    nested: Callable


class Engine(NamedTuple):
    """The functions that treat the jaxprs inside an equation.

    Attributes:
        analyze: ``(jaxpr, main_in, main_out, known) -> Analysis``.
        run: ``(analysis, args) -> (outputs, log_det)``.
        invert: ``(analysis, targets, args) -> (main inputs, reached)``.
        iterates: ``analysis -> bool``, whether its inverse takes Newton steps.
    """

    analyze: Callable[..., Analysis]
    run: Callable
    invert: Callable
    iterates: Callable


class NestedEquation(NamedTuple):
    """An equation that computes its own log-determinant.

    Attributes:
        equation: The equation.
        run: ``(*operands) -> (results, log_det)``.
        invert: ``(operands, results by position) -> (unknown operands in turn, reached)``, where
            the unknown operands are None; None if the equation cannot be inverted.
        analyses: The analyses of the jaxprs inside.
        kind: A description for the user.
    """

    equation: Equation
    run: Callable
    invert: Callable | None
    analyses: list
    kind: str


def back_through(
    invert: Callable, analysis: Analysis, count: int, targets: list, known: dict
) -> tuple[list, Array]:
    """Invert a program, with the known arguments by position, as a branch of ``lax.switch``."""
    found, reached = invert(analysis, targets, [known.get(at) for at in range(count)])
    return found, jnp.asarray(reached)


def constants(equation: Equation, static: StaticValues) -> dict:
    """Return the values of the operands that are constants, by position."""
    known = {at: static.value(o) for at, o in enumerate(equation.operands)}
    return {at: x for at, x in known.items() if x is not None}
