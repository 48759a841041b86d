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
from funcdl.density._primitives.constants import Facts
from funcdl.density._primitives.sparsity import reads
from funcdl.density._program.program import Program, Slot, program


@dataclass(frozen=True, eq=False)
class Analysis:
    """A program with a plan for each of its segments.

    Attributes:
        program: The program.
        facts: What is known of it.
        segments: Between its cuts.
        plans: One a segment.
        origin: The step that computes each slot.
        reads_of: ``step -> reads``.
        bounds: ``operand -> interval``.
    """

    program: Program
    facts: Facts
    segments: list
    plans: list
    origin: dict
    reads_of: Callable
    bounds: Callable

    def lift(self, step, places, made):
        """See ``_lift``."""
        return _lift.lift_step(step, places, made, self.facts, ENGINE)


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
    facts = Facts(whole)
    cache: dict = {}

    def reads_of(step):
        if step not in cache:
            cache[step] = reads(step, facts)
        return cache[step]

    origin = {slot: step for step in whole.steps for slot in step.results}
    segments, bounds = whole.segments(), intervals(whole, facts)
    plans = [
        _lift.lift(s, facts, ENGINE) or _plan.plan(s, reads_of, facts, bounds) for s in segments
    ]
    return Analysis(whole, facts, segments, plans, origin, reads_of, bounds)


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
    lifted = {p.step: p for p in analysis.plans if isinstance(p, Lifted)}
    total = jnp.zeros((), whole.dtype)
    for step in whole.steps:
        operands = [values[o] if isinstance(o, Slot) else o for o in step.operands]
        if step in lifted:
            results, log_det = lifted[step].run(*operands)
            total = total + log_det
        else:
            results = step.evaluate(*operands)
        values.update(zip(step.results, results))
    for plan in analysis.plans:
        if not isinstance(plan, Lifted):
            total = total + _segment.log_det(plan, values, analysis.origin)
    return [values[o] if isinstance(o, Slot) else o for o in whole.outputs], total


ENGINE = Engine(analyze, run, invert)
