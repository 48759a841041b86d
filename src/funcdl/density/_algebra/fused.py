"""Equations of a segment replaced by one that has their derivatives without cancellation."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcdl.density._algebra.evaluation import Evaluation
from funcdl.density._algebra.forms import Forms
from funcdl.density._algebra.polynomial import (
    ABS,
    ERFC,
    EXP,
    LOG,
    SIGN,
    SUM,
    NoForm,
    direction,
)
from funcdl.density._algebra.signs import Cases
from funcdl.density._algebra.signs import cases as cases_of
from funcdl.density._primitives.local_jacobian import Local, LocalJacobian, spread, taken
from funcdl.density._primitives.slope import Slope, linear, log_magnitude
from funcdl.density._primitives.static_values import moved
from funcdl.density._program.program import Equation, Segment, Variable

# The result of the replacement reads the roots of the segment directly. Its derivative by a root is
# one polynomial, or one for each combination of signs of a few roots: x + sqrt(x^2 + 1) needs other
# terms for a negative x. If one of the polynomials could still cancel, the equations stay.


def fused(segment: Segment, forms: Forms, reads_of: Callable) -> tuple[Segment, Callable] | None:
    """Replace the equations whose derivatives may lose digits.

    Args:
        segment: The segment.
        forms: The forms of the program's variables.
        reads_of: ``equation -> reads``, the local Jacobians of its results.

    Returns:
        The segment and the local Jacobians of its equations; None if nothing is replaced.
    """
    needed, replaced = set(segment.outputs), {}
    for equation in reversed(segment.equations):
        if not needed.intersection(equation.results):
            continue
        new = _replacement(equation, forms)
        if new is not None:
            replaced[equation] = new
        needed.update((new[0] if new else equation).variables)
    if not replaced:
        return None
    reads = {new: edges for new, edges in replaced.values()}
    equations = [replaced[e][0] if e in replaced else e for e in segment.equations]
    return segment._replace(equations=equations), lambda e: reads[e] if e in reads else reads_of(e)


def _replacement(equation: Equation, forms: Forms) -> tuple[Equation, list[dict]] | None:
    """Return an equation from the roots to the result, with its local Jacobians."""
    form = forms.form.get(equation.results[0]) if len(equation.results) == 1 else None
    if form is None or not form.is_risky:
        return None
    cases: dict[int, Cases] = {}
    with suppress(NoForm, OverflowError, ZeroDivisionError, ValueError):
        for k, p in form.slopes.items():
            found = cases_of(p)
            if found is None:
                return None
            cases[k] = found
    if len(cases) < len(form.slopes):
        return None
    cases = {k: c for k, c in cases.items() if any(p for _, p in c)}
    own = [forms.roots[k].source for k in cases]
    read = list(dict.fromkeys(s for c in cases.values() for s in _sources(c, forms)))
    new = Equation(equation.eqn, (*own, *read), equation.results, equation.evaluate)
    edges = {}
    for at, (k, each) in enumerate(cases.items()):
        cols = _columns(k, forms, equation.results[0].shape)
        slope = partial(_slope, new, forms, each)
        edges[at] = LocalJacobian(np.arange(cols.size), cols, slope)
    return new, [edges]


def _sources(cases: Cases, forms: Forms) -> list[Variable]:
    """List the variables that the values of polynomials are computed from."""
    found: dict[Variable, None] = {}

    def root(number: int) -> None:
        source, _, repair = forms.roots[number]
        if repair:
            for p in repair[1]:
                walk(p)
        elif isinstance(source, Variable):
            found[source] = None

    def inside(a: tuple) -> None:
        if a[0] in (ABS, SIGN):
            root(a[1])
        elif a[0] == EXP:
            walk([a[1]])
        elif a[0] == ERFC:
            walk([a[1][0]])
        elif a[0] == LOG:
            inside(a[1])
        elif a[0] == SUM:
            walk(m for m, _ in a[1])

    def walk(monomials) -> None:
        for m in monomials:
            for a, _ in m:
                inside(a)

    for signs, p in cases:
        walk(p)
        for number in signs:
            root(number)
    return list(found)


def _columns(number: int, forms: Forms, shape: tuple) -> np.ndarray:
    """Return the position of the root that each number of the result reads."""
    root = forms.roots[number]
    ids: Any = np.arange(root.source.size, dtype=np.int32).reshape(root.source.shape)
    for equation in root.moves:
        values = [None, *map(forms.static.value, equation.operands[1:])]
        ids = np.broadcast_to(ids, equation.operands[0].shape)
        ids = moved(equation, values, [ids, *values[1:]], 0)
    return np.broadcast_to(ids, shape).ravel()


def _slope(
    equation: Equation, forms: Forms, cases: Cases, values: Local, edges: np.ndarray
) -> Slope:
    """Return the derivatives at some edges."""
    given = dict(zip(equation.operands, values.operands))
    shape = equation.results[0].shape
    (signs, p), *others = cases
    if not others:
        slope = Evaluation(forms, given, {}).slope(p)
        return taken(spread(slope, shape), edges)
    mantissa, log = jnp.zeros(()), jnp.zeros(())
    for signs, p in cases:
        slope = Evaluation(forms, given, signs).slope(p)
        sign = direction(p)
        m, l = (float(sign), log_magnitude(slope)) if sign else linear(slope)
        plain = Evaluation(forms, given, {})
        is_here = jnp.asarray(True)
        for number, s in signs.items():
            is_here &= (linear(plain._root(number))[0] >= 0) == (s > 0)
        mantissa = jnp.where(is_here, m, mantissa)
        log = jnp.where(is_here, 0.0 if l is None else l, log)
    return taken(spread(Slope(((mantissa, 1),), log), shape), edges)
