"""A function as a flat list of equations, cut wherever exactly n live numbers depend on x."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._closure import is_traced
from funcdl._jaxpr import CALLS, called, interpret
from funcdl._source import title, where
from funcdl.density._program.custom_rules import rule_of
from funcdl.density._program.forward_mode import loop_with_forward_mode, with_forward_mode

Operand = Any  # a Variable, or a constant: an array or a number
Jaxpr = jex.Jaxpr | jex.ClosedJaxpr


@dataclass(frozen=True, eq=False)
class Variable:
    """An array that a program computes or takes as an input.

    Attributes:
        shape: The shape of the array.
        dtype: The dtype of the array; for typed keys, the extended dtype of jax.
    """

    shape: tuple
    dtype: Any

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def is_float(self) -> bool:
        """Whether the array has derivatives, as real and complex numbers do."""
        return jnp.issubdtype(self.dtype, jnp.inexact)

    @property
    def is_real(self) -> bool:
        return jnp.issubdtype(self.dtype, jnp.floating)


@dataclass(frozen=True, eq=False)
class Equation:
    """An equation of the flat program, ``results = evaluate(*operands)``.

    Attributes:
        eqn: The equation of the jaxpr.
        operands: The operands: variables, and arrays where an operand is constant.
        results: The variables that the equation computes.
        evaluate: ``(*values) -> list`` of values, with the user's derivative rules.
    """

    eqn: jex.JaxprEqn
    operands: tuple
    results: tuple
    evaluate: Callable

    @property
    def name(self) -> str:
        return title(self.eqn)

    @property
    def where(self) -> str:
        return where(self.eqn)

    @property
    def variables(self) -> list[Variable]:
        return [s for s in self.operands if isinstance(s, Variable)]


class Segment(NamedTuple):
    """The equations between two cuts: a map of n numbers to n numbers.

    Attributes:
        equations: The equations that depend on x, in order.
        inputs: The variables that are live before the segment; they hold n numbers.
        outputs: The variables that are live after the segment; they hold n numbers.
    """

    equations: list
    inputs: list
    outputs: list


@dataclass(frozen=True, eq=False)
class Program:
    """A flat list of equations, with the inputs and outputs of the Jacobian marked.

    Attributes:
        equations: The equations in the order of evaluation.
        inputs: One variable per input of the jaxpr.
        outputs: One variable or constant per output of the jaxpr.
        main_in: The inputs with respect to which the outputs are differentiated.
        main_out: The outputs that are differentiated.
        known: The values of the inputs that are fixed.
        captured: The tracers that a closure holds, by variable. Their values are unknown while
            tracing, so every rule treats them as data.
    """

    equations: list[Equation]
    inputs: list[Variable]
    outputs: list
    main_in: list[Variable]
    main_out: list
    known: dict = field(default_factory=dict)
    captured: dict = field(default_factory=dict)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the log-determinant, at least float32."""
        floats = [s.dtype for s in self.main_in]
        return _tree.wide(jnp.result_type(*floats)) if floats else jnp.result_type(float)

    @cached_property
    def dynamic(self) -> set:
        """The variables whose values depend on the main inputs."""
        variables = set(self.main_in)
        for equation in self.equations:
            if any(s in variables for s in equation.variables):
                variables.update(equation.results)
        return variables

    def dynamic_equations(self) -> list[Equation]:
        """Return the equations that depend on the main inputs."""
        return [e for e in self.equations if any(v in self.dynamic for v in e.variables)]

    @cached_property
    def living(self) -> list[dict]:
        """The dynamic variables that are read later: before each dynamic equation and at the end.

        Each is a dictionary without values, which is a set that keeps its order.
        """
        equations = self.dynamic_equations()
        last = {}
        for at, equation in enumerate(equations):
            last.update((s, at) for s in equation.variables if s in self.dynamic)
        last.update((s, len(equations)) for s in self.main_out if s in self.dynamic)
        alive = {s: None for s in self.main_in if s in last}
        living = [alive]
        for at, equation in enumerate(equations):
            alive = {s: None for s in alive if last[s] > at}
            alive.update((s, None) for s in equation.results if last.get(s, -1) > at)
            living.append(alive)
        return living

    def segments(self) -> list[Segment]:
        """Cut the program wherever exactly n live numbers determine the rest.

        The log-determinants of the segments add up, because each segment is a map of n numbers to
        n numbers. An integer or a Boolean that depends on x does not cross a cut.

        Returns:
            The segments in order; an empty list if x has no floats.
        """
        equations = self.dynamic_equations()
        n = sum(s.size for s in self.main_in)
        if n == 0:
            return []
        cuts = [
            at
            for at, alive in enumerate(self.living)
            if all(s.is_real for s in alive) and sum(s.size for s in alive) == n
        ]
        cuts = sorted({0, *cuts, len(equations)})  # the ends are cuts even if an input is not read
        alive = [list(a) for a in self.living]
        alive[0] = list(self.main_in)
        alive[-1] = list(self.main_out)
        if len(cuts) == 1:  # no equation depends on x: a permutation of the inputs
            return [Segment([], alive[0], alive[-1])]
        return [Segment(equations[a:b], alive[a], alive[b]) for a, b in pairwise(cuts)]


def program(
    jaxpr: Jaxpr, main_in: Sequence[int], main_out: Sequence[int], known: dict | None = None
) -> Program:
    """Flatten a jaxpr: calls are inlined, and every value gets a variable of its own.

    Args:
        jaxpr: A closed or an open jaxpr.
        main_in: The positions of the inputs with respect to which the outputs are differentiated.
        main_out: The positions of the outputs that are differentiated.
        known: The values of the inputs that are fixed, by position.

    Returns:
        The program.
    """
    equations = []

    def rule(eqn, operands, plainly):
        if eqn.primitive.name in CALLS and rule_of(eqn) is None:
            return interpret(called(eqn), operands, rule)
        if eqn.primitive.name == "custom_vjp_call":
            plainly = with_forward_mode(plainly)
        plainly = loop_with_forward_mode(eqn, plainly)
        results = tuple(_like(v.aval) for v in eqn.outvars)
        equations.append(Equation(eqn, tuple(operands), results, plainly))
        return list(results)

    open_jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    inputs = [_like(v.aval) for v in open_jaxpr.invars]
    captured = {_like(x): x for x in getattr(jaxpr, "consts", ()) if is_traced(x)}
    holders = {id(x): variable for variable, x in captured.items()}
    consts = [holders.get(id(x), x) for x in getattr(jaxpr, "consts", ())]
    outputs = interpret(jaxpr, inputs, rule, consts)
    fixed = {inputs[i]: value for i, value in (known or {}).items()}
    return Program(
        equations=equations,
        inputs=inputs,
        outputs=outputs,
        main_in=[inputs[i] for i in main_in],
        main_out=[outputs[i] for i in main_out],
        known=fixed,
        captured=captured,
    )


def _like(x: Any) -> Variable:
    """Return a new variable with the shape and dtype of an array or abstract value."""
    return Variable(x.shape, x.dtype)
