"""Sparsity of equations that contain jaxprs: loops, branches, functions with custom derivatives."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy import sparse

from funcdl._jaxpr import scan_parts, subjaxprs, while_parts
from funcdl.density._primitives.pattern import Pattern, identity, patterns
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, Jaxpr, Variable, program

_LARGEST = 1 << 24  # of a pattern, rows times columns; beyond it the sparsity is not read
_LONGEST = 1024  # iterations of a scan that are composed one by one


def inner_pattern(
    equation: Equation, live: list, static: StaticValues, reads: Callable
) -> list | None:
    """Read the sparsity of an equation's results from the jaxpr inside it.

    Args:
        equation: The equation.
        live: The positions of the operands that are float and depend on x.
        static: The static values of the program that contains the equation.
        reads: The function ``sparsity.reads``.

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
    return rule(equation, operands, known, reads)


def _body(jaxpr: Jaxpr, inputs: list, known: list, reads: Callable) -> list:
    """Return the patterns of a jaxpr's outputs from those of its inputs.

    Args:
        jaxpr: The jaxpr.
        inputs: The pattern of each input; None for an input that does not depend on x.
        known: The value of each input that is a constant, None for the others.
        reads: The function ``sparsity.reads``.
    """
    columns = _columns(inputs)
    live = [at for at, p in enumerate(inputs) if p is not None]
    fixed = {at: x for at, x in enumerate(known) if x is not None}
    body = program(jaxpr, live, [], fixed)
    static = StaticValues(body)
    start = {body.inputs[at]: inputs[at] for at in live}
    pattern_of = patterns(body.equations, start, lambda e: reads(e, static), columns)
    empty = sparse.csr_array
    return [
        pattern_of.get(o, empty((o.size, columns), dtype=bool))
        if isinstance(o, Variable)
        else empty((np.size(o), columns), dtype=bool)
        for o in body.outputs
    ]


def _columns(operands: list) -> int:
    return next(p.shape[1] for p in operands if p is not None)


def _call(equation: Equation, operands: list, known: list, reads: Callable) -> list:
    return _body(next(subjaxprs(equation.eqn)), operands, known, reads)


def _cond(equation: Equation, operands: list, known: list, reads: Callable) -> list:
    """Return the union of the patterns of the branches."""
    branches = [_body(b, operands[1:], known[1:], reads) for b in subjaxprs(equation.eqn)]
    return [sum(others, start=first) for first, *others in zip(*branches)]


def _scan(equation: Equation, operands: list, known: list, reads: Callable) -> list | None:
    """Compose the pattern of the body once per iteration, exactly."""
    parts = scan_parts(equation.eqn)
    length = parts.options["length"]
    if length > _LONGEST:
        return None
    columns = _columns(operands)
    first = parts.consts + parts.carry
    consts, carry, xs = operands[: parts.consts], operands[parts.consts : first], operands[first:]
    inputs = [x.aval for x in getattr(parts.body, "jaxpr", parts.body).invars]
    local = _local(parts.body, inputs, known[: parts.consts], reads)
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


def _local(jaxpr: Jaxpr, avals: list, known: list, reads: Callable) -> list:
    """Return the pattern of each output of a body, as one column block per input."""
    variables = [Variable(a.shape, a.dtype) for a in avals]
    floats = [s for s in variables if s.is_float]
    start = identity(floats, sum(s.size for s in floats))
    inputs = [start.get(s) for s in variables]
    if not floats:
        return []
    outputs = _body(jaxpr, inputs, [*known, *[None] * (len(variables) - len(known))], reads)
    bounds = np.cumsum([0] + [s.size if s.is_float else 0 for s in variables])
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


def _while(equation: Equation, operands: list, known: list, reads: Callable) -> list:
    """Repeat the pattern of the body until it stops growing, as the trips are not known."""
    parts = while_parts(equation.eqn)
    skip = parts.test_consts + parts.consts
    consts, carry = operands[parts.test_consts : skip], operands[skip:]
    columns = _columns(operands)
    inputs = [x.aval for x in getattr(parts.body, "jaxpr", parts.body).invars]
    local = _local(parts.body, inputs, known[parts.test_consts : skip], reads)
    sizes = [int(np.prod(a.shape)) for a in inputs[parts.consts :]]
    carry = [sparse.csr_array((n, columns), dtype=bool) if p is None else p
             for p, n in zip(carry, sizes)]  # fmt: skip
    while True:
        grown = [a + b for a, b in zip(carry, _composed(local, [*consts, *carry], columns))]
        if all(a.nnz == b.nnz for a, b in zip(grown, carry)):
            return grown
        carry = grown


_RULES = {
    "custom_jvp_call": _call,
    "custom_vjp_call": _call,
    "jit": _call,
    "pjit": _call,
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}
