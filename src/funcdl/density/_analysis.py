"""Value and log-determinant of a program: plans made once while tracing, then plain arithmetic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from funcdl._typing import Array
from funcdl.density._control_flow import dispatch as _lift
from funcdl.density._control_flow.base import Engine, Lifted
from funcdl.density._inversion.invert import invert
from funcdl.density._jacobian import plan as _plan
from funcdl.density._jacobian import segment_log_det as _segment
from funcdl.density._primitives.bounds import intervals
from funcdl.density._primitives.sparsity import reads
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Program, Variable, program


@dataclass(frozen=True, eq=False)
class Analysis:
    """A program with a plan for each of its segments.

    Attributes:
        program: The program.
        static: What is known of it.
        segments: Between its cuts.
        plans: One a segment.
        origin: The equation that computes each variable.
        reads_of: ``equation -> reads``.
        bounds: ``operand -> interval``.
    """

    program: Program
    static: StaticValues
    segments: list
    plans: list
    origin: dict
    reads_of: Callable
    bounds: Callable

    def lift(self, equation, places, made):
        """See ``_lift``."""
        return _lift.lift_step(equation, places, made, self.static, ENGINE)


def analyze(
    jaxpr, main_in: Sequence[int], main_out: Sequence[int], known: dict | None = None
) -> Analysis:
    """Plan the log-determinant of a jaxpr.

    Args:
        jaxpr: Closed or open.
        main_in: Positions of the inputs to differentiate.
        main_out: Positions of the outputs, as many numbers.
        known: Values of inputs that are fixed.

    Returns:
        What ``value_and_log_det`` evaluates.
    """
    whole = program(jaxpr, main_in, main_out, known)
    static = StaticValues(whole)
    cache: dict = {}

    def reads_of(equation):
        if equation not in cache:
            cache[equation] = reads(equation, static)
        return cache[equation]

    origin = {variable: equation for equation in whole.equations for variable in equation.results}
    segments, bounds = whole.segments(), intervals(whole, static)
    plans = [
        _lift.lift(s, static, ENGINE) or _plan.plan(s, reads_of, static, bounds) for s in segments
    ]
    return Analysis(whole, static, segments, plans, origin, reads_of, bounds)


def run(analysis: Analysis, args: Sequence) -> tuple[list, Array]:
    """Evaluate a program and its log-determinant.

    Args:
        analysis: Of the program.
        args: One an input.

    Returns:
        The outputs and a scalar.
    """
    whole = analysis.program
    values = whole.captured | dict(zip(whole.inputs, args))
    lifted = {p.equation: p for p in analysis.plans if isinstance(p, Lifted)}
    total = jnp.zeros((), whole.dtype)
    for equation in whole.equations:
        operands = [values[o] if isinstance(o, Variable) else o for o in equation.operands]
        if equation in lifted:
            results, log_det = lifted[equation].run(*operands)
            total = total + log_det
        else:
            results = equation.evaluate(*operands)
        values.update(zip(equation.results, results))
    for plan in analysis.plans:
        if not isinstance(plan, Lifted):
            total = total + _segment.log_det(plan, values, analysis.origin)
    return [values[o] if isinstance(o, Variable) else o for o in whole.outputs], total


ENGINE = Engine(analyze, run, invert)
