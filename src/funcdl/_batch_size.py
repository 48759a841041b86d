"""How a function of a batch grows with the number of examples: a mean does not, a sum does.

The law is that a mean over examples is unchanged when the batch is repeated, while a sum doubles.
It is read from the jaxprs of the function for two batch sizes, without evaluating anything.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcdl import _batching, _jaxpr
from funcdl._check import concrete
from funcdl._closure import as_partial
from funcdl._jaxpr import Equation
from funcdl._mean import Mean
from funcdl._typing import PyTree

UNKNOWN = math.inf  # the size depends on the number of examples, but not as a power of it

_PAIRS = _batching.SIZES[:2], _batching.SIZES[2:]
_CALLS = (*_jaxpr.CALLS, "custom_jvp_call", "custom_vjp_call")
# the result has the size of its operands, which are added or chosen from
_JOINED = """add add_any sub max min neg abs real imag convert_element_type reduce_precision copy
    reshape squeeze expand_dims broadcast_in_dim transpose rev slice dynamic_update_slice pad
    concatenate clamp select_n reduce_max reduce_min stop_gradient name tile split""".split()  # noqa: SIM905
_FIRST = "gather", "dynamic_slice"
_FREE = """eq ne lt le gt ge and or not xor sign is_finite argmax argmin iota random_bits
    random_seed random_wrap random_unwrap random_fold_in random_split threefry2x32
    shift_right_logical floor round""".split()  # noqa: SIM905
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3, "square": 2.0}
_ARITHMETIC = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "max": max,
    "min": min,
    "neg": lambda x: -x,
    "sqrt": lambda x: x**0.5,
    "rsqrt": lambda x: x**-0.5,
    "convert_element_type": lambda x: x,
    "broadcast_in_dim": lambda x: x,
    "reshape": lambda x: x,
    "squeeze": lambda x: x,
    "copy": lambda x: x,
}


class _Size(NamedTuple):
    """The abstract value of an array: it grows like the number of examples to a power."""

    power: float = 0.0
    values: tuple | None = None  # of a constant with equal entries: its value for both batch sizes


class Traces(NamedTuple):
    """The jaxprs of one function for two batch sizes, with the same operations."""

    one: Any
    two: Any
    sizes: tuple[int, int]


def two_traces(f: Callable, params: PyTree, batch: PyTree) -> Traces | None:
    """Trace ``f(params, batch)`` for two batch sizes; return None if the operations differ."""
    trace = lambda size: jax.make_jaxpr(f)(params, _batching.resized(batch, size))
    for sizes in _PAIRS:
        one, two = map(trace, sizes)
        names = [[e.primitive.name for e in _jaxpr.equations(j)] for j in (one, two)]
        if names[0] == names[1]:
            return Traces(one, two, sizes)
    return None


def check_mean(f: Callable, params: PyTree, batch: PyTree, name: str = "loss") -> None:
    """Raise an error if a function is proved to grow with the number of examples.

    A function of which this is unknown passes, also one that only works for its own batch size.

    Args:
        f: ``f(params, batch)``: a scalar or ``Mean``.
        params: Arrays or ``jax.ShapeDtypeStruct``.
        batch: The same, with a leading axis of examples on every leaf that has axes.
        name: The name of the function in the message.

    Raises:
        ValueError: If it is, for example, a sum over the examples.
    """
    f = Partial(_cached, as_partial(f))
    try:
        traces = two_traces(f, params, batch)
    except Exception:  # unknown; an error of the function itself is raised where it is used
        return
    if traces is not None and (power := growth(f, params, batch, traces)) not in (0, UNKNOWN):
        raise ValueError(grows(power, name))


@jax.jit  # so that a loss is traced once per batch size, however often it is checked
def _cached(f: Callable, params: PyTree, batch: PyTree) -> PyTree:
    return f(params, batch)


def growth(f: Callable, params: PyTree, batch: PyTree, traces: Traces) -> float:
    """Return the power of the number of examples with which the outputs of a function grow.

    Args:
        f: ``f(params, batch)``: arrays, or ``Mean``, which grows like its quotient.
        params: Arrays or ``jax.ShapeDtypeStruct``.
        batch: The same.
        traces: The result of ``two_traces``.

    Returns:
        0 for means, 1 for sums, ``UNKNOWN`` where it is not a power.
    """
    out = jax.eval_shape(f, params, _batching.resized(batch, traces.sizes[0]))
    powers = _Growth(traces).run()
    if isinstance(out, Mean):
        powers = [_quotient(*powers)]
    return next((p for p in powers if abs(p) > 1e-6), 0.0)


def grows(power: float, name: str = "loss") -> str:
    """Return the message for a function that is not a mean over the examples."""
    how = "is a sum over the examples" if abs(power - 1) < 1e-6 else "depends on the batch size"
    return (
        f"{name} {how}: its value changes when the batch is repeated; expected a mean over the "
        "examples, such as `.mean()`, or losses.Mean(total, weight) for a weighted mean"
    )


def _quotient(x: float, y: float) -> float:
    return UNKNOWN if UNKNOWN in (x, y) else x - y


# An abstract interpretation of both jaxprs in step. Each value is a power of the number of
# examples; constants, which may be computed from that number, are followed by value, so that
# dividing by n, multiplying by 1 / n and dividing by n - 1 are told apart.
class _Growth:
    def __init__(self, traces: Traces):
        self.traces = traces
        equations = list(zip(*map(_jaxpr.equations, traces[:2]), strict=True))
        self.twins = {id(e): twin for e, twin in equations}
        variables = [zip([*e.invars, *e.outvars], [*t.invars, *t.outvars]) for e, t in equations]
        pairs = itertools.chain.from_iterable(variables)
        self.varying = {id(v) for v, w in pairs if _shape(v) != _shape(w)}

    def run(self) -> list[float]:
        one, two, _ = self.traces
        consts = [self.constant(*pair) for pair in zip(one.consts, two.consts, strict=True)]
        inputs = [_Size() for _ in one.in_avals]
        outs = _jaxpr.interpret(one, inputs, self.rule, consts)
        pairs = zip(outs, two.jaxpr.outvars, strict=True)
        powers = [self.read(x, twin).power for x, twin in pairs]
        return [p if math.isfinite(p) else UNKNOWN for p in powers]

    def constant(self, x: Any, y: Any) -> _Size:
        if jnp.ndim(x) or jnp.ndim(y) or concrete(x) is None or concrete(y) is None:
            return _Size()
        if not all(jnp.issubdtype(jnp.result_type(v), jnp.number) for v in (x, y)):
            return _Size()
        x, y = (float(np.real(np.asarray(v))) for v in (x, y))
        return _Size(self.power(x, y), (x, y))

    def power(self, x: float, y: float) -> float:
        if x == y or (math.isnan(x) and math.isnan(y)):
            return 0.0
        ratio = y / x if x else 0.0
        a, b = self.traces.sizes
        return math.log(ratio) / math.log(b / a) if ratio > 0 else UNKNOWN

    def read(self, x: Any, twin: Any) -> _Size:
        if isinstance(x, _Size):
            return x
        return self.constant(x, twin.val if isinstance(twin, jex.Literal) else x)

    def rule(self, equation: Equation, operands: list, _plainly: Callable) -> list[_Size]:
        twin, name = self.twins[id(equation)], equation.primitive.name
        sizes = [self.read(x, v) for x, v in zip(operands, twin.invars)]
        if name in _CALLS:
            return self.inside(_jaxpr.called(equation), sizes)
        if name in ("scan", "while", "cond"):
            rule = {"scan": self.scan, "while": self.loop, "cond": self.branches}[name]
            return rule(equation, sizes)
        if name in _ARITHMETIC and all(s.values for s in sizes):
            one, two = zip(*(s.values for s in sizes if s.values))
            try:
                values = _ARITHMETIC[name](*one), _ARITHMETIC[name](*two)
            except (ArithmeticError, TypeError):
                return [_Size(UNKNOWN)]
            return [_Size(self.power(*values), values)]
        power = self.operation(equation, name, sizes)
        return [_Size(power)] * len(equation.outvars)

    def operation(self, equation: Equation, name: str, sizes: list[_Size]) -> float:
        powers = [s.power for s in sizes]
        summed = self.has_examples(equation.invars) and not self.has_examples(equation.outvars)
        if name in _FREE:
            return 0.0
        if name in _FIRST:
            return powers[0]
        if name in _JOINED:
            return _joined(sizes[1:] if name == "select_n" else sizes)
        if name in ("mul", "dot_general", "conv_general_dilated"):
            return sum(powers) + (summed and name != "mul")
        if name == "div":
            return _quotient(*powers)
        if name in ("reduce_sum", "cumsum"):
            along = name == "cumsum" and self.has_examples(equation.invars)
            return UNKNOWN if along else powers[0] + summed
        if name.startswith("scatter"):
            summed = self.has_examples(equation.invars[2:]) and summed
            return _joined([sizes[0], _Size(powers[2] + summed)])
        if name in _POWERS:
            return powers[0] * _POWERS[name]
        if name == "integer_pow":
            return powers[0] * equation.params["y"]
        return UNKNOWN if summed or any(powers) else 0.0

    def has_examples(self, variables: list) -> bool:
        """Tell whether the shape of one of the variables depends on the batch size."""
        return any(id(v) in self.varying for v in variables)

    def inside(self, jaxpr: Any, sizes: list[_Size]) -> list[_Size]:
        outs = _jaxpr.interpret(jaxpr, sizes, self.rule)
        return [x if isinstance(x, _Size) else _Size() for x in outs]

    def scan(self, equation: Equation, sizes: list[_Size]) -> list[_Size]:
        parts = _jaxpr.scan_parts(equation)
        twin = self.twins[id(equation)]
        if parts.carry and equation.params["length"] != twin.params["length"]:
            return [_Size(UNKNOWN)] * len(equation.outvars)  # it passes through the examples
        return self.fixed(parts.body, sizes, parts.consts, parts.carry)

    def fixed(self, body: Any, sizes: list[_Size], consts: int, carry: int) -> list[_Size]:
        """Run the body of a loop until the powers of its carry are stable; one change suffices."""
        sizes = [s._replace(values=None) for s in sizes]
        for _ in range(2):
            out = self.inside(body, sizes)
            before = sizes[consts : consts + carry]
            after = [_Size(_joined([a, b])) for a, b in zip(before, out)]
            if [a.power for a in after] == [b.power for b in before]:
                break
            unknown = [a if a.power == b.power else _Size(UNKNOWN) for a, b in zip(after, before)]
            sizes = [*sizes[:consts], *unknown, *sizes[consts + carry :]]
        return [_Size(s.power) for s in self.inside(body, sizes)]

    def branches(self, equation: Equation, sizes: list[_Size]) -> list[_Size]:
        results = [self.inside(body, sizes[1:]) for body in _jaxpr.subjaxprs(equation)]
        return [_Size(_joined(list(same))) for same in zip(*results)]

    def loop(self, equation: Equation, sizes: list[_Size]) -> list[_Size]:
        parts = _jaxpr.while_parts(equation)
        test = [*sizes[: parts.test_consts], *sizes[parts.test_consts + parts.consts :]]
        kept = sizes[parts.test_consts :]
        carry = len(equation.outvars)
        out = self.fixed(parts.body, kept, parts.consts, carry)
        grows_with_n = any(s.power for s in test)
        return [_Size(UNKNOWN)] * carry if grows_with_n else out


def _joined(sizes: list[_Size]) -> float:
    """Return the common power of several values; 0, inf and NaN have any power."""
    powers = {s.power for s in sizes if not (s.values and _is_unchanged_by_scaling(*s.values))}
    if len(powers) > 1 and max(powers) - min(powers) > 1e-6:
        return UNKNOWN
    return powers.pop() if powers else 0.0


def _is_unchanged_by_scaling(x: float, y: float) -> bool:
    return (x == y == 0) or not (math.isfinite(x) or math.isfinite(y))


def _shape(v: Any) -> tuple:
    return getattr(v.aval, "shape", ())
