"""Find the operation of a step that first made a value that is not finite."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from funcdl import _jaxpr, _source, _tree
from funcdl._typing import PyTree
from funcdl.train._program import Program, Run, check_program, check_run

# The equations of the step are evaluated one at a time on the host. Each value carries a mark: the
# number of the earliest origin that made it not finite, or None. The invariant: a mark is created
# only where an equation turns unmarked operands into a value that is not finite, and marks flow
# from operands to results that are not finite. So a NaN that ``where`` discards leaves no mark on
# the result, and the smallest mark among the results of the step is the cause. Loops are first
# evaluated as one operation and entered only if their result is not finite; this keeps the usual
# case fast. jax.debug_nans instead stops at any NaN, also at a discarded one, and names no layer.

_Jaxpr = jex.Jaxpr | jex.ClosedJaxpr


class Origin(NamedTuple):
    """The operation at which a step first made a value that is not finite; print it.

    Attributes:
        operation: The name of the operation: ``log``, or ``div in softmax`` if it is inside one of
            JAX's own functions, or ``"input"`` if the value came with the run or the batch.
        place: ``file:line (function)`` of the code that called the operation, or the path of the
            input.
        layer: The scopes around the operation, which are the layers for Flax, such as
            ``Net/Dense_1``; empty outside of any scope.
        derivative: Whether the operation belongs to a derivative of that line while the loss itself
            is finite.
        iterations: The iterations of the surrounding loops, from the outermost, counted from 0.
        value: ``"nan"`` or ``"inf"``.
    """

    operation: str
    place: str
    layer: str
    derivative: bool
    iterations: tuple[int, ...]
    value: str

    def __str__(self):
        of = "the derivative of " if self.derivative else ""
        layer = f" in layer {self.layer}" if self.layer else ""
        loops = [f" in iteration {i} of a loop" for i in self.iterations]
        return f"{self.value} from {self.operation}{layer}{''.join(loops)}: {of}{self.place}"


def diagnose(program: Program, run: Run, batch: PyTree) -> Origin | None:
    """Find the operation of a step that first makes a NaN or infinity that reaches its results.

    The step is evaluated operation by operation on the host, which takes seconds. A value that is
    infinite on purpose, or that a ``where`` discards, does not count. Loops and branches are
    searched.

    Args:
        program: The program that trains.
        run: The run before the step, such as ``replay(...).before``.
        batch: The batch of the step, such as ``replay(...).batch``.

    Returns:
        The operation with its line, or ``None`` if all results are finite when the operations are
        evaluated one by one.

    >>> import optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: -jnp.ones(()), lambda w, x: jnp.log(w) + x.mean())
    >>> sgd = train.program(line, optax.sgd(0.25))
    >>> origin = diagnose(sgd, sgd.init(jax.random.key(0), jnp.ones(1)), jnp.ones(1))
    >>> origin.operation, origin.value
    ('log', 'nan')
    """
    check_program(program)
    check_run(run)
    jaxpr, (new, metrics) = jax.make_jaxpr(program.step, return_shape=True)(run, batch)
    walk = _Walk()
    paths = [f"run/{p}" for p in _tree.paths(run)] + [f"batch/{p}" for p in _tree.paths(batch)]
    inputs = [walk.input(x, path) for x, path in zip(jax.tree.leaves((run, batch)), paths)]
    results = _jaxpr.interpret(jaxpr, inputs, walk.rule)
    new, metrics = jax.tree.unflatten(jax.tree.structure((new, metrics)), map(_value, results))
    loss_is_finite = _finite(metrics["loss"].x)
    for group in ((metrics["loss"], new.params), new.state, new.opt_state, metrics):
        values = jax.tree.leaves(group, is_leaf=lambda x: isinstance(x, _Value))
        marks = [value.mark for value in values if value.mark is not None]
        if marks:
            origin = walk.origins[min(marks)]
            return origin._replace(derivative=origin.derivative and loss_is_finite)
    return None


class _Value(NamedTuple):
    """An intermediate value, and the number of the origin that made it not finite."""

    x: Any
    mark: int | None = None


def _value(x: Any) -> _Value:
    return x if isinstance(x, _Value) else _Value(x)


def _floats(x: Any) -> np.ndarray:
    """Return a float array on the host; an empty array for integers and keys, which are finite."""
    return np.asarray(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else np.zeros(0)


def _finite(x: Any) -> bool:
    return bool(np.isfinite(_floats(x)).all())


def _nan(x: Any) -> bool:
    return bool(np.isnan(_floats(x)).any())


class _Walk:
    """An evaluation that marks values that are not finite with their origins."""

    def __init__(self):
        self.origins: list[Origin] = []
        self.around: list[jex.JaxprEqn] = []  # the equations whose inner jaxpr is being evaluated
        self.loops: list[int] = []  # the current iterations of those equations that are loops

    def rule(self, equation: jex.JaxprEqn, operands: list, plainly: Callable) -> list[_Value]:
        """Evaluate one equation, or the equations inside it if it is a call or a branch."""
        operands, name = [_value(x) for x in operands], equation.primitive.name
        if name == "cond":
            index, *operands = operands
            branches = list(_jaxpr.subjaxprs(equation))
            return self.inside(equation, branches[int(index.x)], operands)
        if name in _jaxpr.CALLS_WITH_RULES:
            return self.inside(equation, _jaxpr.called(equation), operands)
        results = plainly(*(x for x, _ in operands))
        if all(map(_finite, results)):
            return [_Value(y) for y in results]
        marks: list[int | None] = [None] * len(results)
        if name in _LOOPS:
            marks = _LOOPS[name](self, equation, operands, results)
        marked = [value.mark for value in operands if value.mark is not None]
        # an infinity that was passed in, as in a mask, passes through select, exp, max and so on
        is_passed_on = not any(map(_nan, results)) and not all(_finite(x) for x, _ in operands)
        if marked:
            marks = [min(marked) if mark is None else mark for mark in marks]
        elif not is_passed_on and None in marks:
            origin = self.origin(equation, results)
            marks = [self.add(origin) if mark is None else mark for mark in marks]
        return [_Value(y, None if _finite(y) else mark) for y, mark in zip(results, marks)]

    def inside(self, equation: jex.JaxprEqn, jaxpr: _Jaxpr, operands: list) -> list[_Value]:
        """Evaluate a jaxpr that an equation calls."""
        self.around.append(equation)
        results = _jaxpr.interpret(jaxpr, operands, self.rule)
        self.around.pop()
        return [_value(y) for y in results]

    def scan(self, equation: jex.JaxprEqn, operands: list, results: list) -> list[int | None]:
        """Run a scan on the host, up to the iterations that break its results."""
        parts = _jaxpr.scan_parts(equation)
        first = parts.consts + parts.carry
        consts, carry = operands[: parts.consts], operands[parts.consts : first]
        marks: list[int | None] = [None] * len(results)
        is_broken = [not _finite(y) for y in results]
        order = range(parts.options["length"])
        for i in reversed(order) if parts.options["reverse"] else order:
            slices = [self.part(value, i) for value in operands[first:]]
            outputs = self.iteration(equation, parts.body, i, [*consts, *carry, *slices])
            carry = outputs[: parts.carry]
            rows = [mark if mark is not None else y.mark for mark, y in zip(marks, outputs)]
            marks = [y.mark for y in carry] + rows[parts.carry :]
            if all(mark is not None for mark, bad in zip(marks, is_broken) if bad):
                break
        return marks

    def part(self, value: _Value, i: int) -> _Value:
        """Take one slice of a sequence."""
        x = value.x[i]
        return _Value(x, None if _finite(x) else value.mark)

    def loop(self, equation: jex.JaxprEqn, operands: list, results: list) -> list[int | None]:
        """Run a while loop on the host, up to the iteration that breaks its results."""
        parts = _jaxpr.while_parts(equation)
        first = parts.test_consts + parts.consts
        test, consts = operands[: parts.test_consts], operands[parts.test_consts : first]
        carry, is_broken = operands[first:], [not _finite(y) for y in results]
        i = 0
        while bool(_value(_jaxpr.interpret(parts.test, [*test, *carry], _plainly)[0]).x):
            carry = self.iteration(equation, parts.body, i, [*consts, *carry])
            if all(y.mark is not None for y, bad in zip(carry, is_broken) if bad):
                break
            i += 1
        return [y.mark for y in carry]

    def iteration(
        self, equation: jex.JaxprEqn, body: _Jaxpr, i: int, operands: list
    ) -> list[_Value]:
        """Evaluate the body of a loop once."""
        self.loops.append(i)
        results = self.inside(equation, body, operands)
        self.loops.pop()
        return results

    def input(self, x: Any, path: str) -> _Value:
        """Mark an input that is not finite."""
        origin = Origin(
            operation="input",
            place=path.rstrip("/"),
            layer="",
            derivative=False,
            iterations=(),
            value=_kind([x]),
        )
        return _Value(x, None if _finite(x) else self.add(origin))

    def add(self, origin: Origin) -> int:
        """Store an origin and return its number."""
        self.origins.append(origin)
        return len(self.origins) - 1

    def origin(self, equation: jex.JaxprEqn, results: list) -> Origin:
        """Describe an equation by its line; inside JAX's own functions, by the line of the call."""
        path = [*self.around, equation]
        scopes = "/".join(scope for e in path if (scope := _source.scope(e)))
        own = next((f" in {f}" for e in self.around if (f := _source.own_function(e))), "")
        return Origin(
            operation=equation.primitive.name + own,
            place=next((line for e in reversed(path) if (line := _source.where(e))), ""),
            layer=_layer(scopes),
            derivative="jvp(" in scopes or "transpose(" in scopes,
            iterations=tuple(self.loops),
            value=_kind(results),
        )


_LOOPS = {"scan": _Walk.scan, "while": _Walk.loop}


def _plainly(_equation: jex.JaxprEqn, operands: list, plainly: Callable) -> list:
    return plainly(*(_value(x).x for x in operands))


def _kind(results: list) -> str:
    return "nan" if any(map(_nan, results)) else "inf"


def _layer(scopes: str) -> str:
    """Remove the names of transforms: ``transpose(jvp(Net))/Dense_0`` gives ``Net/Dense_0``."""
    while scopes != (inner := re.sub(r"\w+\(([^()]*)\)", r"\1", scopes)):
        scopes = inner
    return "/".join(filter(None, scopes.split("/")))
