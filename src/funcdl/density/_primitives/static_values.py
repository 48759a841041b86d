"""Static values of a program: constants, zeros, and where an operation moves each number.

They are found while tracing, from the constants of the jaxpr and the inputs that are fixed.
"""

from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._closure import is_traced
from funcdl.density._primitives.table import record
from funcdl.density._program.program import Equation, Operand, Program, Variable

# Invariant: a value or a zero that is recorded here is the same on every call. Only equations that
# do not depend on x are evaluated; tracers, effects, typed keys and random numbers are never
# static. A failed evaluation is not an error: the array is then unknown and the plans are wider.
# Supports reach further than values: in ``tril(w) @ x`` the numbers of w are traced, but the zeros
# of the triangle are static, so the pattern of the Jacobian is triangular.
# Zeros and positions take one path: an operation that moves numbers is run on masks or on indices
# in place of its operands, which covers slices, gathers and scatters without a rule for each.
# Records evaluate in NumPy, because jax would compile every operation of every shape.

# a larger array is not computed while tracing
_LARGEST = 1 << 22


def evaluate(equation: Equation, values: list, stand_in: int | None = None) -> list:
    """Evaluate an equation on constants while tracing.

    Args:
        equation: The equation.
        values: One array per operand.
        stand_in: None for values of the operands. If the values are masks or positions that stand
            for the operands, conversions are skipped, and this number stands for the constant that
            a gather puts where it reads outside of its operand.

    Returns:
        One array per result.
    """
    entry = record(equation.name)
    if stand_in is not None and entry.in_place:
        return list(values)
    result = entry.evaluate(equation.eqn.params, *values) if entry.evaluate else None
    if result is not None:
        dtype = result.dtype if stand_in is not None else equation.results[0].dtype
        return [np.asarray(result, dtype)]
    with jax.ensure_compile_time_eval():
        return [np.asarray(y) for y in _rebuilt(equation, values, stand_in)]


def _rebuilt(equation: Equation, values: list, stand_in: int | None) -> list:
    """Bind the primitive again for values that may stand for the operands, in another dtype."""
    params = equation.eqn.params
    if stand_in is None:
        forms: list = [v.aval for v in equation.eqn.invars]
        return equation.evaluate(*(jnp.asarray(x, form.dtype) for x, form in zip(values, forms)))
    values = [jnp.asarray(x) for x in values]
    if "fill_value" in params:
        params = params | {"fill_value": stand_in}
    rebuild = record(equation.name).rebuild
    if rebuild is not None:
        names = "dimension_numbers", "indices_are_sorted", "unique_indices", "mode"
        return [rebuild(*values, **{name: params[name] for name in names})]
    out = equation.eqn.primitive.bind(*values, **params)
    return out if equation.eqn.primitive.multiple_results else [out]


class StaticValues:
    """The constants and zeros of a program that are known while tracing.

    Attributes:
        dynamic: The variables that depend on x.
        values: The values of the variables that are constants.
        supports: For some variables that do not depend on x, a Boolean array that tells where they
            may differ from 0.
    """

    def __init__(self, program: Program):
        self.dynamic = program.dynamic
        self.values = {s: np.asarray(v) for s, v in program.known.items() if not is_traced(v)}
        self.supports: dict[Variable, np.ndarray] = {}
        for equation in program.equations:
            if not any(o in self.dynamic for o in equation.variables):
                self._learn(equation)

    def value(self, operand: Operand) -> np.ndarray | None:
        """Return the value of an operand that is a constant, or None."""
        if isinstance(operand, Variable):
            return self.values.get(operand)
        return None if is_traced(operand) else _numpy(operand)

    def support(self, operand: Operand) -> np.ndarray | None:
        """Return where an operand may differ from 0; None if it may everywhere."""
        value = self.value(operand)
        if value is not None:
            return np.asarray(value != 0)
        return self.supports.get(operand) if isinstance(operand, Variable) else None

    def _learn(self, equation: Equation) -> None:
        values = [self.value(o) for o in equation.operands]
        small = sum(s.size for s in equation.results) <= _LARGEST
        pure = not equation.eqn.effects and not equation.name.startswith("random")
        if small and pure and all(v is not None for v in values):
            with suppress(Exception):  # the value is then unknown, which is always correct
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
            fill = equation.eqn.params.get("fill_value")
            masks = [m.astype(np.int32) for m in full]
            shown = moved(equation, values, masks, int(fill is None or fill != 0))
            return None if shown is None else np.asarray(shown) != 0
        mask = entry.support(equation.eqn.params, *full) if entry.support else None
        return None if mask is None else np.broadcast_to(mask, shape)

    def moved(self, equation: Equation, values: list, stand_ins: list) -> np.ndarray | list | None:
        """Run an operation that moves numbers on arrays of positions; see ``moved``."""
        return moved(equation, values, stand_ins, 0)


def _numpy(x: Operand) -> np.ndarray | None:
    if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended):
        return None  # a typed key
    return np.asarray(x)


def moved(
    equation: Equation, values: list, stand_ins: list, constant: int
) -> np.ndarray | list | None:
    """Run an equation that only moves numbers on arrays that stand for its operands.

    Args:
        equation: An equation whose record has ``sources``.
        values: The value of each operand that is a constant, None for the others.
        stand_ins: One array per operand, such as masks or positions, all of one dtype.
        constant: The number that stands for the constant that a gather fills in.

    Returns:
        The moved arrays, one per result, or the array alone if there is one result; None if an
        operand that says where numbers go is not a constant.
    """
    positions = range(len(values))[record(equation.name).indices]
    if any(values[at] is None for at in positions):
        return None
    operands = [values[i] if i in positions else x for i, x in enumerate(stand_ins)]
    results = evaluate(equation, operands, constant)
    return results[0] if len(results) == 1 else results
