"""Sparsity of equations that contain jaxprs: loops, branches, functions with custom derivatives."""

import functools
import operator
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
from scipy import sparse

from funcdl._jaxpr import scan_parts, subjaxprs, while_parts
from funcdl.density._primitives.pattern import Pattern, identity, patterns
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, Jaxpr, Variable, program

_LARGEST = 1 << 24  # of a pattern, rows times columns; beyond it the sparsity is not read
_LONGEST = 1024  # iterations of a scan that are composed one by one

# A pattern answers one of two questions. Derivatives: which entries of the Jacobian can be nonzero;
# of a function with a custom rule, the rule decides, because jax differentiates the rule.
# Values: which numbers a result is computed from. The second is wider than the first by every
# number that reaches the result through a rounding, a comparison or an integer, and by every number
# that a custom rule leaves out. An inverse that took the first for the second would run a step of
# the program on numbers that are not known yet.


class Reading(NamedTuple):
    """The question that a pattern answers.

    Attributes:
        reads: ``(equation, static) -> reads``, the local Jacobians of its results.
        of_values: Whether the pattern is that of the values, not that of the derivatives.
    """

    reads: Callable
    of_values: bool

    def counts(self, variable: Variable) -> bool:
        """Tell whether the pattern follows a variable; integers have no derivatives."""
        return self.of_values or variable.is_float


def inner_pattern(
    equation: Equation, live: list, static: StaticValues, reading: Reading
) -> list | None:
    """Read the sparsity of an equation's results from the jaxpr inside it.

    Args:
        equation: The equation.
        live: The positions of the operands that depend on x and that the reading follows.
        static: The static values of the program that contains the equation.
        reading: The question that the pattern answers.

    Returns:
        The pattern of each result over the concatenation of all live operands; None if it is not
        known.
    """
    rule = _RULES.get(equation.eqn.primitive.name)
    sizes = [equation.operands[at].size for at in live]
    if rule is None or sum(sizes) * sum(s.size for s in equation.results) > _LARGEST:
        return None
    start = identity([equation.operands[at] for at in live], sum(sizes))
    operands = [start[o] if at in live else None for at, o in enumerate(equation.operands)]
    known = [static.value(o) for o in equation.operands]
    return rule(equation, operands, known, reading)


def _body(jaxpr: Jaxpr, inputs: list, known: list, reading: Reading) -> list:
    """Return the patterns of a jaxpr's outputs from those of its inputs.

    Args:
        jaxpr: The jaxpr.
        inputs: The pattern of each input; None for an input that does not depend on x.
        known: The value of each input that is a constant, None for the others.
        reading: The question that the pattern answers.
    """
    columns = _columns(inputs)
    live = [at for at, p in enumerate(inputs) if p is not None]
    fixed = {at: x for at, x in enumerate(known) if x is not None}
    body = program(jaxpr, live, [], fixed)
    static = StaticValues(body)
    start = {body.inputs[at]: inputs[at] for at in live}
    pattern_of = patterns(body.equations, start, lambda e: reading.reads(e, static), columns)
    empty = sparse.csr_array
    return [
        pattern_of.get(o, empty((o.size, columns), dtype=bool))
        if isinstance(o, Variable)
        else empty((np.size(o), columns), dtype=bool)
        for o in body.outputs
    ]


def _columns(operands: list) -> int:
    return next(p.shape[1] for p in operands if p is not None)


def _call(equation: Equation, operands: list, known: list, reading: Reading) -> list:
    return _body(next(subjaxprs(equation.eqn)), operands, known, reading)


def _custom(equation: Equation, operands: list, known: list, reading: Reading) -> list:
    """Return the patterns of a function with a custom derivative.

    Its values are those of its body, its derivatives those of its rule, whose jaxpr is linear in
    the tangents.
    """
    if reading.of_values:
        return _call(equation, operands, known, reading)
    live = [at for at, p in enumerate(operands) if p is not None]
    forms = [jax.ShapeDtypeStruct(np.shape(o), o.dtype) if hasattr(o, "dtype") else o
             for o in equation.operands]  # fmt: skip
    floats = [k for k, variable in enumerate(equation.results) if variable.is_float]

    def tangents(primals, directions):
        def along(*points):
            full = dict(enumerate(primals)) | dict(zip(live, points))
            results = equation.evaluate(*(full[at] for at in range(len(full))))
            return [results[k] for k in floats]

        return jax.jvp(along, tuple(primals[at] for at in live), tuple(directions))[1]

    jaxpr = jax.make_jaxpr(tangents)(forms, [forms[at] for at in live])
    inputs = [*[None] * len(forms), *(operands[at] for at in live)]
    patterns_of_floats = dict(zip(floats, _body(jaxpr, inputs, known, reading)))
    columns = _columns(operands)
    return [
        patterns_of_floats.get(k, sparse.csr_array((variable.size, columns), dtype=bool))
        for k, variable in enumerate(equation.results)
    ]


def _cond(equation: Equation, operands: list, known: list, reading: Reading) -> list:
    """Return the union of the patterns of the branches."""
    columns = _columns(operands)
    if all(p is None for p in operands[1:]):
        branches = [[sparse.csr_array((s.size, columns), dtype=bool) for s in equation.results]]
    else:
        branches = [_body(b, operands[1:], known[1:], reading) for b in subjaxprs(equation.eqn)]
    patterns_of_results = [functools.reduce(operator.add, same) for same in zip(*branches)]
    if operands[0] is None:
        return patterns_of_results
    return [p + _by_all(p.shape[0], operands[0]) for p in patterns_of_results]


def _by_all(size: int, pattern: Pattern) -> Pattern:
    """Return the pattern of a result whose numbers all read everything that an operand reads."""
    row = sparse.csr_array((pattern.sum(0) > 0)[None])
    return sparse.csr_array(sparse.kron(np.ones((size, 1), bool), row, format="csr"))


def _scan(equation: Equation, operands: list, known: list, reading: Reading) -> list | None:
    """Compose the pattern of the body once per iteration, exactly."""
    parts = scan_parts(equation.eqn)
    length = parts.options["length"]
    if length > _LONGEST:
        return None
    columns = _columns(operands)
    first = parts.consts + parts.carry
    consts, carry, xs = operands[: parts.consts], operands[parts.consts : first], operands[first:]
    inputs = [x.aval for x in getattr(parts.body, "jaxpr", parts.body).invars]
    local = _local(parts.body, inputs, known[: parts.consts], reading)
    order = range(length)[::-1] if parts.options["reverse"] else range(length)
    ys = {}
    for t in order:
        rows = [_slice(p, t, length) for p in xs]
        outs = _composed(local, [*consts, *carry, *rows], columns)
        carry, ys[t] = outs[: parts.carry], outs[parts.carry :]
    stacked = [sparse.vstack([ys[t][k] for t in range(length)], format="csr")
               for k in range(len(equation.results) - parts.carry)] if length else []  # fmt: skip
    return [*carry, *stacked]


def _slice(pattern: Pattern | None, t: int, length: int) -> Pattern | None:
    """Return the pattern of the slice at iteration t of a sequence."""
    if pattern is None:
        return None
    size = pattern.shape[0] // length
    return pattern[t * size : (t + 1) * size]


def _local(jaxpr: Jaxpr, avals: list, known: list, reading: Reading) -> list:
    """Return the pattern of each output of a body, as one column block per input."""
    variables = [Variable(a.shape, a.dtype) for a in avals]
    followed = [s for s in variables if reading.counts(s)]
    start = identity(followed, sum(s.size for s in followed))
    inputs = [start.get(s) for s in variables]
    if not followed:
        return []
    outputs = _body(jaxpr, inputs, [*known, *[None] * (len(variables) - len(known))], reading)
    bounds = np.cumsum([0] + [s.size if reading.counts(s) else 0 for s in variables])
    return [[p[:, a:b] for a, b in pairwise(bounds)] for p in outputs]


def _composed(local: list, inputs: list, columns: int) -> list:
    """Return the patterns of a body's outputs from the patterns of its inputs."""
    composed = []
    for row in local:
        total = sparse.csr_array((row[0].shape[0], columns), dtype=bool)
        for edges, pattern in zip(row, inputs):
            if pattern is not None and edges.nnz and pattern.nnz:
                total = total + edges @ pattern
        composed.append(total)
    return composed


def _while(equation: Equation, operands: list, known: list, reading: Reading) -> list:
    """Repeat the pattern of the body until it stops growing, as the trips are not known."""
    parts = while_parts(equation.eqn)
    skip = parts.test_consts + parts.consts
    consts, carry = operands[parts.test_consts : skip], operands[skip:]
    columns = _columns(operands)
    inputs = [x.aval for x in getattr(parts.body, "jaxpr", parts.body).invars]
    local = _local(parts.body, inputs, known[parts.test_consts : skip], reading)
    sizes = [int(np.prod(a.shape)) for a in inputs[parts.consts :]]
    carry: list[Pattern] = [
        sparse.csr_array((n, columns), dtype=bool) if p is None else p for p, n in zip(carry, sizes)
    ]
    while True:
        grown = [a + b for a, b in zip(carry, _composed(local, [*consts, *carry], columns))]
        if all(a.nnz == b.nnz for a, b in zip(grown, carry)):
            break
        carry = grown
    if not reading.of_values:
        return carry
    # the values also read the numbers on which the test depends, because they decide the trips
    tested = [*operands[: parts.test_consts], *carry]
    (test,) = _body(
        parts.test, tested, [*known[: parts.test_consts], *[None] * len(carry)], reading
    )
    return carry if test is None else [p + _by_all(p.shape[0], test) for p in carry]


_RULES = {
    "custom_jvp_call": _custom,
    "custom_vjp_call": _custom,
    "jit": _call,
    "pjit": _call,
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}
