"""What is known of a program before it runs: constants, zeros, where each number comes from."""

from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._closure import is_traced
from funcdl.density._primitives.table import record
from funcdl.density._program.program import Equation, Program, Variable

# a larger array is not computed while tracing
_LARGEST = 1 << 22


def evaluate(equation: Equation, values: list, keep_dtype: bool = False) -> list:
    """Evaluate an equation on constants, while tracing.

    Args:
        equation: Any.
        values: One array an operand.
        keep_dtype: Whether conversions are left out: the values stand for something else.

    Returns:
        One array a result.
    """
    entry = record(equation.name)
    if keep_dtype and entry.in_place:
        return list(values)
    result = entry.evaluate(equation.eqn.params, *values) if entry.evaluate else None
    if result is not None:
        dtype = result.dtype if keep_dtype else equation.results[0].dtype
        return [np.asarray(result, dtype)]
    with jax.ensure_compile_time_eval():
        return [np.asarray(y) for y in _rebuilt(equation, values)]


def _rebuilt(equation: Equation, values: list) -> list:
    """Bind the primitive anew: the values may have another dtype than the equation's."""
    params = equation.eqn.params
    values = [jnp.asarray(x) for x in values]
    if all(np.dtype(x.dtype) == _dtype(o) for x, o in zip(values, equation.operands)):
        return equation.evaluate(*values)
    rebuild = record(equation.name).rebuild
    if rebuild is not None:
        names = "dimension_numbers", "indices_are_sorted", "unique_indices", "mode"
        return [rebuild(*values, **{name: params[name] for name in names})]
    out = equation.eqn.primitive.bind(*values, **params)
    return out if equation.eqn.primitive.multiple_results else [out]


def _dtype(operand) -> np.dtype:
    return np.dtype(operand.dtype if isinstance(operand, Variable) else np.asarray(operand).dtype)


class StaticValues:
    """What is known of each variable before the program runs.

    Attributes:
        values: Of the variables that are constants.
        supports: Boolean arrays, by variable that does not depend on x: where it may differ from 0.
    """

    def __init__(self, program: Program):
        self.dynamic = program.dynamic
        self.values = {s: np.asarray(v) for s, v in program.known.items() if not is_traced(v)}
        self.supports: dict[Variable, np.ndarray] = {}
        for equation in program.equations:
            if not any(o in self.dynamic for o in equation.variables):
                self._learn(equation)

    def value(self, operand) -> np.ndarray | None:
        """Return an operand's value, if it is a constant."""
        if isinstance(operand, Variable):
            return self.values.get(operand)
        return None if is_traced(operand) else _numpy(operand)

    def support(self, operand) -> np.ndarray | None:
        """Return where an operand may differ from 0; None where it may everywhere."""
        value = self.value(operand)
        if value is not None:
            return np.asarray(value != 0)
        return self.supports.get(operand) if isinstance(operand, Variable) else None

    def _learn(self, equation: Equation) -> None:
        values = [self.value(o) for o in equation.operands]
        small = sum(s.size for s in equation.results) <= _LARGEST
        pure = not equation.eqn.effects and not equation.name.startswith("random")
        if small and pure and all(v is not None for v in values):
            with suppress(Exception):  # then it is not known before the program runs
                self.values.update(zip(equation.results, evaluate(equation, values)))
            return
        support = self._support(equation, values)
        if support is not None and not support.all():
            self.supports[equation.results[0]] = support

    def _support(self, equation: Equation, values: list) -> np.ndarray | None:
        if len(equation.results) != 1:
            return None
        shape = equation.results[0].shape
        masks = [self.support(o) for o in equation.operands]
        if all(m is None for m in masks):
            return None
        full = [
            np.ones(np.shape(o), bool) if m is None else m for o, m in zip(equation.operands, masks)
        ]
        entry = record(equation.name)
        if entry.sources is not None and entry.support is None:
            shown = moved(equation, values, [m.astype(np.int32) for m in full])
            return None if shown is None else shown != 0
        mask = entry.support(equation.eqn.params, *full) if entry.support else None
        return None if mask is None else np.broadcast_to(mask, shape)

    def moved(self, equation: Equation, values: list, stand_ins: list):
        """See ``moved``."""
        return moved(equation, values, stand_ins)


def _numpy(x) -> np.ndarray | None:
    if jax.dtypes.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended):
        return None  # a typed key
    return np.asarray(x)


def moved(equation: Equation, values: list, stand_ins: list):
    """Run a structural equation on arrays that stand for its operands.

    Args:
        equation: Structural.
        values: Constants among its operands, by position.
        stand_ins: One array an operand, all of one dtype.

    Returns:
        What stands for its result; None if a position is no constant.
    """
    positions = range(len(values))[record(equation.name).indices]
    if any(values[at] is None for at in positions):
        return None
    operands = [values[i] if i in positions else x for i, x in enumerate(stand_ins)]
    results = evaluate(equation, operands, keep_dtype=True)
    return results[0] if len(results) == 1 else results
