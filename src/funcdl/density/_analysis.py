"""Value and log-determinant of a program: planned once while tracing, then plain arithmetic."""

from collections.abc import Sequence
from functools import cache, partial

import jax.numpy as jnp

from funcdl._typing import Array
from funcdl.density._algebra.forms import Forms
from funcdl.density._control_flow import dispatch
from funcdl.density._control_flow.base import Analysis, Engine, NestedEquation
from funcdl.density._inversion.invert import invert, iterates
from funcdl.density._jacobian import plan as _plan
from funcdl.density._jacobian import segment_log_det
from funcdl.density._primitives.bounds import intervals
from funcdl.density._primitives.sparsity import reads, value_reads
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, Jaxpr, Variable, program


def analyze(
    jaxpr: Jaxpr, main_in: Sequence[int], main_out: Sequence[int], known: dict | None = None
) -> Analysis:
    """Plan the log-determinant of a jaxpr.

    Args:
        jaxpr: A closed or an open jaxpr.
        main_in: The positions of the inputs with respect to which the outputs are differentiated.
        main_out: The positions of the outputs; they hold as many numbers as the inputs.
        known: The values of the inputs that are fixed, by position.

    Returns:
        The program with a plan for each of its segments.
    """
    whole = program(jaxpr, main_in, main_out, known)
    static = StaticValues(whole)
    reads_of, value_reads_of = (cache(partial(f, static=static)) for f in (reads, value_reads))
    origin = {variable: equation for equation in whole.equations for variable in equation.results}
    segments, bounds = whole.segments(), intervals(whole, static)
    # a single equation has nothing to cancel with
    forms = (
        cache(lambda: Forms(whole, segments, static, bounds)) if len(whole.equations) > 1 else None
    )
    plans = [
        dispatch.nested_segment(s, static, ENGINE) or _plan.plan(s, reads_of, static, bounds, forms)
        for s in segments
    ]

    def nested(
        equation: Equation, mapped: list, images: list, is_replaced: bool = False
    ) -> NestedEquation | None:
        back = partial(invert, is_replaced=is_replaced)
        engine = ENGINE._replace(invert=back) if is_replaced else ENGINE
        return dispatch.nested_equation(equation, mapped, images, static, engine)

    return Analysis(
        program=whole,
        static=static,
        segments=segments,
        plans=plans,
        origin=origin,
        reads_of=reads_of,
        value_reads_of=value_reads_of,
        bounds=bounds,
        nested=nested,
    )


def run(analysis: Analysis, args: Sequence) -> tuple[list, Array]:
    """Evaluate a program and its log-determinant.

    Args:
        analysis: The analysis of the program.
        args: One value per input.

    Returns:
        The outputs and the log-determinant.
    """
    whole = analysis.program
    values = whole.captured | dict(zip(whole.inputs, args))
    nested = {p.equation: p for p in analysis.plans if isinstance(p, NestedEquation)}
    total = jnp.zeros((), whole.dtype)
    for equation in whole.equations:
        operands = [values[o] if isinstance(o, Variable) else o for o in equation.operands]
        if equation in nested:
            results, log_det = nested[equation].run(*operands)
            total = total + log_det
        else:
            results = equation.evaluate(*operands)
        values.update(zip(equation.results, results))
    for plan in analysis.plans:
        if not isinstance(plan, NestedEquation):
            total = total + segment_log_det.log_det(plan, values, analysis.origin)
    return [values[o] if isinstance(o, Variable) else o for o in whole.outputs], total


ENGINE = Engine(analyze, run, invert, iterates)
