"""A function as a flat list of equations, cut wherever all that is left of x is n live numbers."""

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

# what only evaluates the jaxpr inside: a custom_vjp has no forward derivative, so its body is used
_INLINE = (*CALLS, "custom_vjp_call")


@dataclass(frozen=True, eq=False)
class Variable:
    """One array of a program.

    Attributes:
        shape: Its shape.
        dtype: Its dtype; of typed keys, the extended dtype of jax.
    """

    shape: tuple
    dtype: Any

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def is_float(self) -> bool:
        """Whether it has derivatives; complex numbers have."""
        return jnp.issubdtype(self.dtype, jnp.inexact)

    @property
    def is_real(self) -> bool:
        return jnp.issubdtype(self.dtype, jnp.floating)


@dataclass(frozen=True, eq=False)
class Equation:
    """One eqn: ``results = evaluate(*operands)``.

    Attributes:
        eqn: As jax wrote it.
        operands: Slots and, where constant, arrays.
        results: Slots.
        evaluate: ``(*values) -> list`` of values; derivative rules of the user's are kept.
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
    """A stretch between two cuts.

    Attributes:
        equations: Its equations that depend on x.
        inputs: Slots live before, n numbers.
        outputs: Slots live after, n numbers.
    """

    equations: list
    inputs: list
    outputs: list


@dataclass(frozen=True, eq=False)
class Program:
    """A flat program with marked inputs and outputs.

    Attributes:
        equations: In order.
        inputs: One variable an input.
        outputs: One variable, or constant, an output.
        main_in: The inputs that the Jacobian differentiates.
        main_out: The outputs that it differentiates.
        known: Values of inputs that are fixed.
        captured: Values of variables that a closure holds: tracers, that are data to every rule.
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
        """Of its log-determinant: at least float32."""
        floats = [s.dtype for s in self.main_in]
        return _tree.wide(jnp.result_type(*floats)) if floats else jnp.result_type(float)

    @cached_property
    def dynamic(self) -> set:
        """The variables whose value depends on the main inputs."""
        found = set(self.main_in)
        for equation in self.equations:
            if any(s in found for s in equation.variables):
                found.update(equation.results)
        return found

    @cached_property
    def living(self) -> list[dict]:
        """The dynamic variables read later, before each dynamic equation and at the end.

        A dictionary without values is a set that keeps its order.
        """
        equations = [s for s in self.equations if any(o in self.dynamic for o in s.variables)]
        last = {}
        for at, equation in enumerate(equations):
            last.update((s, at) for s in equation.variables if s in self.dynamic)
        last.update((s, len(equations)) for s in self.main_out if s in self.dynamic)
        alive = {s: None for s in self.main_in if s in last}
        found = [alive]
        for at, equation in enumerate(equations):
            alive = {s: None for s in alive if last[s] > at}
            alive.update((s, None) for s in equation.results if last.get(s, -1) > at)
            found.append(alive)
        return found

    def segments(self) -> list[Segment]:
        """Cut the program wherever exactly n live numbers determine the rest.

        An integer or a Boolean that depends on x does not cross a cut.

        Returns:
            The stretches between cuts, in order; none if there are no numbers.
        """
        equations = [s for s in self.equations if any(o in self.dynamic for o in s.variables)]
        n = sum(s.size for s in self.main_in)
        if n == 0:
            return []
        cuts = [
            at
            for at, alive in enumerate(self.living)
            if all(s.is_real for s in alive) and sum(s.size for s in alive) == n
        ]
        cuts = sorted({0, *cuts, len(equations)})  # the ends are cuts, were an input never read
        alive = [list(a) for a in self.living]
        alive[0] = list(self.main_in)
        alive[-1] = list(self.main_out)
        if len(cuts) == 1:  # no equation at all: a permutation of the inputs
            return [Segment([], alive[0], alive[-1])]
        return [Segment(equations[a:b], alive[a], alive[b]) for a, b in pairwise(cuts)]


def program(
    jaxpr, main_in: Sequence[int], main_out: Sequence[int], known: dict | None = None
) -> Program:
    """Flatten a jaxpr: calls are entered, every value gets a variable of its own.

    Args:
        jaxpr: Closed or open.
        main_in: Positions of the inputs to differentiate.
        main_out: Positions of the outputs.
        known: Values of inputs that are fixed, by position.

    Returns:
        The program.
    """
    equations = []

    def rule(eqn, operands, plainly):
        if eqn.primitive.name in _INLINE and rule_of(eqn) is None:
            return interpret(called(eqn), operands, rule)
        results = tuple(Variable(v.aval.shape, v.aval.dtype) for v in eqn.outvars)
        equations.append(Equation(eqn, tuple(operands), results, plainly))
        return list(results)

    inside = getattr(jaxpr, "jaxpr", jaxpr)
    inputs = [Variable(v.aval.shape, v.aval.dtype) for v in inside.invars]
    captured = {Variable(x.shape, x.dtype): x for x in getattr(jaxpr, "consts", ()) if is_traced(x)}
    holders = {id(x): variable for variable, x in captured.items()}
    consts = [holders.get(id(x), x) for x in getattr(jaxpr, "consts", ())]
    outputs = interpret(jaxpr, inputs, rule, consts)
    fixed = {inputs[i]: value for i, value in (known or {}).items()}
    chosen = [inputs[i] for i in main_in], [outputs[i] for i in main_out]
    return Program(equations, inputs, outputs, *chosen, fixed, captured)
