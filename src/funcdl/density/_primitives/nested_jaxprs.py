"""Sparsity of what has a jaxpr inside: loops, branches, functions with a rule of their own."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy import sparse

from funcdl._jaxpr import scan_parts, subjaxprs, while_parts
from funcdl.density._primitives.pattern import identity, patterns
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, Variable, program

# a denser pattern is not written out
_LARGEST = 1 << 24
_LONGEST = 1024


def inner_pattern(
    equation: Equation, live: list, static: StaticValues, reads: Callable
) -> list | None:
    """Read the sparsity of an equation's results from the jaxpr inside it.

    Args:
        equation: Any.
        live: Positions of the dynamic float operands.
        static: Of the program around.
        reads: ``(equation, static) -> reads``.

    Returns:
        For each result its pattern over all live operands in turn; None if it is not known.
    """
    rule = _RULES.get(equation.eqn.primitive.name)
    sizes = [equation.operands[at].size for at in live]
    if rule is None or sum(sizes) * sum(s.size for s in equation.results) > _LARGEST:
        return None
    start = identity([equation.operands[at] for at in live], sum(sizes))
    given = [
        start[equation.operands[at]] if at in live else None for at in range(len(equation.operands))
    ]
    known = [static.value(o) for o in equation.operands]
    return rule(equation, given, known, reads)


def _body(jaxpr, given: list, known: list, reads: Callable) -> list:
    """The patterns of a jaxpr's outputs, from those of its inputs; None is no dependence."""
    columns = next(p.shape[1] for p in given if p is not None)
    live = [at for at, p in enumerate(given) if p is not None]
    fixed = {at: x for at, x in enumerate(known) if x is not None}
    whole = program(jaxpr, live, [], fixed)
    static = StaticValues(whole)
    inputs = {whole.inputs[at]: given[at] for at in live}
    found = patterns(whole.equations, inputs, lambda equation: reads(equation, static), columns)
    empty = sparse.csr_array
    return [
        found.get(o, empty((o.size, columns), dtype=bool))
        if isinstance(o, Variable)
        else empty((np.size(o), columns), dtype=bool)
        for o in whole.outputs
    ]


def _call(equation, given, known, reads):
    return _body(next(subjaxprs(equation.eqn)), given, known, reads)


def _cond(equation, given, known, reads):
    found = None
    for branch in subjaxprs(equation.eqn):
        these = _body(branch, given[1:], known[1:], reads)
        found = these if found is None else [a + b for a, b in zip(found, these)]
    return found


def _scan(equation, given, known, reads):
    """Each equation of a loop adds what its body reads; what an equation reads is known exactly."""
    parts = scan_parts(equation.eqn)
    length = parts.options["length"]
    if length > _LONGEST:
        return None
    columns = next(p.shape[1] for p in given if p is not None)
    first = parts.consts + parts.carry
    consts, carry, xs = given[: parts.consts], given[parts.consts : first], given[first:]
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


def _slice(pattern, t: int, length: int):
    if pattern is None:
        return None
    size = pattern.shape[0] // length
    return pattern[t * size : (t + 1) * size]


def _local(jaxpr, avals, known, reads) -> list:
    """The pattern of a body's outputs over all its float inputs, each a column block."""
    variables = [Variable(a.shape, a.dtype) for a in avals]
    floats = [s for s in variables if s.is_float]
    start = identity(floats, sum(s.size for s in floats))
    given = [start.get(s) for s in variables]
    if not floats:
        return []
    found = _body(jaxpr, given, [*known, *[None] * (len(variables) - len(known))], reads)
    bounds = np.cumsum([0] + [s.size if s.is_float else 0 for s in variables])
    return [[p[:, a:b] for a, b in pairwise(bounds)] for p in found]


def _composed(local: list, given: list, columns: int) -> list:
    found = []
    for row in local:
        total = sparse.csr_array((row[0].shape[0], columns), dtype=bool)
        for edges, pattern in zip(row, given):
            if pattern is not None and edges.nnz and pattern.nnz:
                total = total + edges @ pattern
        found.append(total)
    return found


def _while(equation, given, known, reads):
    """Repeat the body's sparsity until it grows no more."""
    parts = while_parts(equation.eqn)
    skip = parts.test_consts + parts.consts
    consts, carry = given[parts.test_consts : skip], given[skip:]
    columns = next(p.shape[1] for p in given if p is not None)
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
