"""Which operation of a step first made a value that is not finite."""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _jaxpr, _source, _tree
from funcdl._typing import Array, PyTree
from funcdl.train._program import Program, Run


class Origin(NamedTuple):
    """Where a step first made a value that is not finite; print it.

    Attributes:
        operation: What was computed, ``log``, or ``div in softmax`` where jax's own function did;
            ``"input"`` if the value came with the run or the batch.
        place: ``file:line (function)`` of the code that called for it, or the path of the input.
        layer: The scopes around it, which name the layers of Flax, ``Net/Dense_1``; empty outside.
        derivative: Whether it is in a derivative of that line, and the loss itself is finite.
        iterations: Of the loops around it, the outermost first, counted from 0.
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
    """Find the operation at which a step first makes NaN or infinity that reaches its results.

    The step is taken operation by operation, on the host: seconds. What is infinite on purpose,
    or discarded by a ``where``, is no cause. Loops and branches are entered.

    Args:
        program: ``init`` and ``step``.
        run: Before the step, as ``replay(...).before``.
        batch: Of the step, as ``replay(...).batch``.

    Returns:
        The operation with its line; ``None`` if, taken one by one, all results are finite.

    >>> import optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: -jnp.ones(()), lambda w, x: jnp.log(w) + x.mean())
    >>> sgd = train.program(line, optax.sgd(0.25))
    >>> origin = diagnose(sgd, sgd.init(jax.random.key(0), jnp.ones(1)), jnp.ones(1))
    >>> origin.operation, origin.value
    ('log', 'nan')
    """
    jaxpr, (new, metrics) = jax.make_jaxpr(program.step, return_shape=True)(run, batch)
    walk = _Walk()
    paths = [f"run/{p}" for p in _tree.paths(run)] + [f"batch/{p}" for p in _tree.paths(batch)]
    inputs = [walk.given(x, path) for x, path in zip(jax.tree.leaves((run, batch)), paths)]
    results = _jaxpr.interpret(jaxpr, inputs, walk.rule)
    new, metrics = jax.tree.unflatten(jax.tree.structure((new, metrics)), map(_value, results))
    sound = _finite(metrics["loss"].x)
    for group in ((metrics["loss"], new.params), new.state, new.opt_state, metrics):
        values = jax.tree.leaves(group, is_leaf=lambda x: isinstance(x, _Value))
        marks = [value.mark for value in values if value.mark is not None]
        if marks:
            origin = walk.origins[min(marks)]
            return origin._replace(derivative=origin.derivative and sound)
    return None


class _Value(NamedTuple):
    """An intermediate value, and the number of the origin that made it not finite."""

    x: Array
    mark: int | None = None


def _value(x) -> _Value:
    return x if isinstance(x, _Value) else _Value(x)


def _floats(x) -> np.ndarray:
    """Return a float array on the host, and of integers and keys, which are finite, none."""
    return np.asarray(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else np.zeros(0)


def _finite(x) -> bool:
    return bool(np.isfinite(_floats(x)).all())


def _nan(x) -> bool:
    return bool(np.isnan(_floats(x)).any())


class _Walk:
    """An evaluation that marks what is not finite with its origin."""

    def __init__(self):
        self.origins: list[Origin] = []
        self.around: list = []  # equations whose inside is evaluated
        self.loops: list[int] = []  # the iterations of those that are loops

    def rule(self, equation, operands: list, plainly: Callable) -> list[_Value]:
        """Evaluate one equation; of what it calls, each of the equations inside."""
        operands, name = [_value(x) for x in operands], equation.primitive.name
        if name == "cond":
            index, *operands = operands
            branches = list(_jaxpr.subjaxprs(equation))
            return self.inside(equation, branches[int(index.x)], operands)
        if name in _CALLS:
            return self.inside(equation, _jaxpr.called(equation), operands)
        results = plainly(*(x for x, _ in operands))
        if all(map(_finite, results)):
            return [_Value(y) for y in results]
        marks = [None] * len(results)
        if name in _LOOPS:
            marks = _LOOPS[name](self, equation, operands, results)
        marked = [value.mark for value in operands if value.mark is not None]
        # an infinity that was given, as in a mask, is passed on by select, exp, max and the like
        given = not any(map(_nan, results)) and not all(_finite(x) for x, _ in operands)
        if marked:
            marks = [min(marked) if mark is None else mark for mark in marks]
        elif not given and None in marks:
            origin = self.origin(equation, results)
            marks = [self.add(origin) if mark is None else mark for mark in marks]
        return [_Value(y, None if _finite(y) else mark) for y, mark in zip(results, marks)]

    def inside(self, equation, jaxpr, operands: list) -> list[_Value]:
        """Evaluate a jaxpr that an equation calls."""
        self.around.append(equation)
        results = _jaxpr.interpret(jaxpr, operands, self.rule)
        self.around.pop()
        return [_value(y) for y in results]

    def scan(self, equation, operands: list, results: list) -> list[int | None]:
        """Run a scan on the host, up to the iterations that break its results."""
        parts = _jaxpr.scan_parts(equation)
        first = parts.consts + parts.carry
        consts, carry = operands[: parts.consts], operands[parts.consts : first]
        marks, broken = [None] * len(results), [not _finite(y) for y in results]
        order = range(parts.options["length"])
        for i in reversed(order) if parts.options["reverse"] else order:
            slices = [self.part(value, i) for value in operands[first:]]
            found = self.iteration(equation, parts.body, i, [*consts, *carry, *slices])
            carry = found[: parts.carry]
            rows = [mark if mark is not None else y.mark for mark, y in zip(marks, found)]
            marks = [y.mark for y in carry] + rows[parts.carry :]
            if all(mark is not None for mark, bad in zip(marks, broken) if bad):
                break
        return marks

    def part(self, value: _Value, i: int) -> _Value:
        """Take one slice of a sequence."""
        x = value.x[i]
        return _Value(x, None if _finite(x) else value.mark)

    def loop(self, equation, operands: list, results: list) -> list[int | None]:
        """Run a while loop on the host, up to the iteration that breaks its results."""
        parts = _jaxpr.while_parts(equation)
        first = parts.test_consts + parts.consts
        test, consts = operands[: parts.test_consts], operands[parts.test_consts : first]
        carry, broken = operands[first:], [not _finite(y) for y in results]
        i = 0
        while bool(_value(_jaxpr.interpret(parts.test, [*test, *carry], _plainly)[0]).x):
            carry = self.iteration(equation, parts.body, i, [*consts, *carry])
            if all(y.mark is not None for y, bad in zip(carry, broken) if bad):
                break
            i += 1
        return [y.mark for y in carry]

    def iteration(self, equation, body, i: int, operands: list) -> list[_Value]:
        """Evaluate the body of a loop once."""
        self.loops.append(i)
        results = self.inside(equation, body, operands)
        self.loops.pop()
        return results

    def given(self, x, path: str) -> _Value:
        """Mark an input that is not finite."""
        origin = Origin("input", path.rstrip("/"), "", False, (), _kind([x]))
        return _Value(x, None if _finite(x) else self.add(origin))

    def add(self, origin: Origin) -> int:
        """Note an origin, and number it."""
        self.origins.append(origin)
        return len(self.origins) - 1

    def origin(self, equation, results: list) -> Origin:
        """Describe an equation by its line; of a function of jax's own, by that of the call."""
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


_CALLS = (*_jaxpr.CALLS, "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_LOOPS = {"scan": _Walk.scan, "while": _Walk.loop}


def _plainly(_equation, operands: list, plainly: Callable) -> list:
    return plainly(*(_value(x).x for x in operands))


def _kind(results: list) -> str:
    return "nan" if any(map(_nan, results)) else "inf"


def _layer(scopes: str) -> str:
    """Take the names of transforms off: ``transpose(jvp(Net))/Dense_0`` is in ``Net/Dense_0``."""
    while scopes != (inner := re.sub(r"\w+\(([^()]*)\)", r"\1", scopes)):
        scopes = inner
    return "/".join(filter(None, scopes.split("/")))
