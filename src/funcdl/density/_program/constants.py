"""What is known of a program before it runs: constants, zeros, where each number comes from."""

from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._closure import is_traced
from funcdl.density._program.program import Program, Slot, Step

# a larger array is not computed while tracing
_LARGEST = 1 << 22

# what moves numbers, changing none
STRUCTURAL = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "rev", "split",
    "concatenate", "pad", "gather", "dynamic_slice", "dynamic_update_slice", "scatter", "copy",
    "copy_p", "name", "optimization_barrier", "stack", "convert_element_type", "reduce_precision",
    "select_n",
}  # fmt: skip

# where they take their positions from, by operand; those have to be constants
_POSITIONS = {
    "gather": slice(1, None),
    "dynamic_slice": slice(1, None),
    "dynamic_update_slice": slice(2, None),
    "scatter": slice(1, 2),
    "scatter-add": slice(1, 2),
    "select_n": slice(0, 1),
}

# zero where their operand is zero
_KEEPS_ZERO = {
    "neg", "abs", "sign", "sqrt", "tanh", "sin", "tan", "sinh", "asinh", "atan", "asin", "expm1",
    "log1p", "erf", "integer_pow", "square", "cbrt", "floor", "round", "real", "imag", "conj",
}  # fmt: skip


def _select(_params, predicate, *cases):
    return np.where(predicate.astype(bool), cases[1], cases[0]) if len(cases) == 2 else None


def _broadcast(params, x):
    shape = [1] * len(params["shape"])
    for at, size in zip(params["broadcast_dimensions"], x.shape):
        shape[at] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _slice(params, x):
    bounds = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(slice(a, b, s) for a, b, s in zip(*bounds, strides))]


def _iota(params):
    along = [-1 if at == params["dimension"] else 1 for at in range(len(params["shape"]))]
    line = np.arange(params["shape"][params["dimension"]], dtype=params["dtype"])
    return np.broadcast_to(line.reshape(along), params["shape"])


# a few operations in numpy, that jax would compile one by one
_NUMPY = {
    "iota": _iota,
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "expand_dims": lambda p, x: np.expand_dims(x, p["dimensions"]),
    "broadcast_in_dim": lambda p, x, *_sizes: _broadcast(p, x),
    "slice": _slice,
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "concatenate": lambda p, *x: np.concatenate(x, p["dimension"]),
    "select_n": _select,
    "copy": lambda _p, x: x,
    "add": lambda _p, x, y: x + y,
    "sub": lambda _p, x, y: x - y,
    "lt": lambda _p, x, y: x < y,
    "le": lambda _p, x, y: x <= y,
    "gt": lambda _p, x, y: x > y,
    "ge": lambda _p, x, y: x >= y,
    "eq": lambda _p, x, y: x == y,
    "ne": lambda _p, x, y: x != y,
    "and": lambda _p, x, y: x & y,
    "or": lambda _p, x, y: x | y,
    "not": lambda _p, x: ~x,
}
_SAME_DTYPE = ("convert_element_type", "reduce_precision", "copy_p", "name", "optimization_barrier")


def evaluate(step: Step, values: list, keep_dtype: bool = False) -> list:
    """Evaluate a step on constants, while tracing.

    Args:
        step: Any.
        values: One array an operand.
        keep_dtype: Whether conversions are left out: the values stand for something else.

    Returns:
        One array a result.
    """
    if keep_dtype and step.name in _SAME_DTYPE:
        return list(values)
    ready = _NUMPY.get(step.name)
    result = ready(step.equation.params, *values) if ready else None
    if result is not None:
        dtype = result.dtype if keep_dtype else step.results[0].dtype
        return [np.asarray(result, dtype)]
    with jax.ensure_compile_time_eval():
        return [np.asarray(y) for y in _rebuilt(step, values)]


def _rebuilt(step: Step, values: list) -> list:
    """Bind the primitive anew: the values may have another dtype than the equation's."""
    params = step.equation.params
    values = [jnp.asarray(x) for x in values]
    if all(np.dtype(x.dtype) == _dtype(o) for x, o in zip(values, step.operands)):
        return step.evaluate(*values)
    if step.name in _SCATTERS:
        names = "dimension_numbers", "indices_are_sorted", "unique_indices", "mode"
        return [_SCATTERS[step.name](*values, **{name: params[name] for name in names})]
    out = step.equation.primitive.bind(*values, **params)
    return out if step.equation.primitive.multiple_results else [out]


_SCATTERS = {"scatter": jax.lax.scatter, "scatter-add": jax.lax.scatter_add}


def _dtype(operand) -> np.dtype:
    return np.dtype(operand.dtype if isinstance(operand, Slot) else np.asarray(operand).dtype)


class Facts:
    """What is known of each slot before the program runs.

    Attributes:
        values: Of the slots that are constants.
        supports: Boolean arrays, by slot that does not depend on x: where it may differ from 0.
    """

    def __init__(self, program: Program):
        self.dynamic = program.dynamic
        self.values = {s: np.asarray(v) for s, v in program.known.items() if not is_traced(v)}
        self.supports: dict[Slot, np.ndarray] = {}
        for step in program.steps:
            if not any(o in self.dynamic for o in step.slots):
                self._learn(step)

    def value(self, operand) -> np.ndarray | None:
        """Return an operand's value, if it is a constant."""
        if isinstance(operand, Slot):
            return self.values.get(operand)
        return None if is_traced(operand) else _numpy(operand)

    def support(self, operand) -> np.ndarray | None:
        """Return where an operand may differ from 0; None where it may everywhere."""
        value = self.value(operand)
        if value is not None:
            return np.asarray(value != 0)
        return self.supports.get(operand) if isinstance(operand, Slot) else None

    def _learn(self, step: Step) -> None:
        values = [self.value(o) for o in step.operands]
        small = sum(s.size for s in step.results) <= _LARGEST
        pure = not step.equation.effects and not step.name.startswith("random")
        if small and pure and all(v is not None for v in values):
            with suppress(Exception):  # then it is not known before the program runs
                self.values.update(zip(step.results, evaluate(step, values)))
            return
        support = self._support(step, values)
        if support is not None and not support.all():
            self.supports[step.results[0]] = support

    def _support(self, step: Step, values: list) -> np.ndarray | None:
        if len(step.results) != 1:
            return None
        shape = step.results[0].shape
        masks = [self.support(o) for o in step.operands]
        if all(m is None for m in masks):
            return None
        full = [
            np.ones(np.shape(o), bool) if m is None else m for o, m in zip(step.operands, masks)
        ]
        if step.name == "mul":
            return np.broadcast_to(full[0] & full[1], shape)
        if step.name in ("add", "sub", "max", "min"):
            return np.broadcast_to(full[0] | full[1], shape)
        if step.name == "div":
            return np.broadcast_to(full[0], shape)
        if step.name in _KEEPS_ZERO and step.equation.params.get("y", 1) > 0:
            return full[0]
        if step.name in STRUCTURAL:
            shown = moved(step, values, [m.astype(np.int32) for m in full])
            return None if shown is None else shown != 0
        return None


def _numpy(x) -> np.ndarray | None:
    if jax.dtypes.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended):
        return None  # a typed key
    return np.asarray(x)


def moved(step: Step, values: list, stand_ins: list):
    """Run a structural step on arrays that stand for its operands.

    Args:
        step: Structural.
        values: Constants among its operands, by position.
        stand_ins: One array an operand, all of one dtype.

    Returns:
        What stands for its result; None if a position is no constant.
    """
    positions = range(len(values))[_POSITIONS.get(step.name, slice(0, 0))]
    if any(values[at] is None for at in positions):
        return None
    operands = [values[i] if i in positions else x for i, x in enumerate(stand_ins)]
    results = evaluate(step, operands, keep_dtype=True)
    return results[0] if len(results) == 1 else results
