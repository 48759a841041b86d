"""A report on the segments of a function: their structure, cost and injectivity."""

from typing import NamedTuple

import jax

from funcdl._closure import as_partial
from funcdl._typing import Function, PyTree
from funcdl.density._arguments import prepared
from funcdl.density._control_flow.base import Analysis, NestedEquation
from funcdl.density._inverse import shapes
from funcdl.density._inversion import injectivity
from funcdl.density._inversion.invert import judge_each
from funcdl.density._jacobian.parts import Bottleneck, Dense, Plan, Singles
from funcdl.density._primitives.table import is_move
from funcdl.density._program.program import Segment
from funcdl.density._trace import traced


class Row(NamedTuple):
    """The report on one segment.

    Attributes:
        where: The operations of the segment and the line of the first.
        structure: The structure of the Jacobian.
        method: The method that computes the log-determinant.
        products: The number of forward products with the segment's Jacobian that this takes.
        dense: The size of the largest dense determinant; 0 if all blocks have size 1.
        injective: ``proved``, ``assumed`` or ``refuted: ...``.
    """

    where: str
    structure: str
    method: str
    products: int
    dense: int
    injective: str


class Inspection(NamedTuple):
    """The segments of a function, in order; printing it shows a table.

    Attributes:
        numbers: The number of floats that the function maps.
        rows: One row per segment.
        injective: ``proved``, ``assumed`` or ``refuted: ...`` for the whole function.
    """

    numbers: int
    rows: list[Row]
    injective: str

    def __str__(self) -> str:
        head = Row._fields
        table = [head, *([str(value) for value in row] for row in self.rows)]
        widths = [max(len(line[k]) for line in table) for k in range(len(head))]
        lines = ["  ".join(x.ljust(w) for x, w in zip(line, widths)).rstrip() for line in table]
        return "\n".join([f"{self.numbers} numbers, injective: {self.injective}", *lines])


def inspect(f: Function, like: PyTree, *args: PyTree) -> Inspection:
    """Report how the log-determinant of a function is computed, and whether it is injective.

    Args:
        f: The function ``f(x, *args)`` of one point.
        like: Arrays or shapes of the form of x.
        args: Arrays or shapes of the form of the other arguments.

    Returns:
        The report, which prints as a table.

    Raises:
        TypeError: If x or f(x) has a complex leaf.
        ValueError: If x and f(x) differ in the number of floats.

    >>> import jax.numpy as jnp
    >>> found = inspect(lambda x: jnp.exp(x[::-1]), jnp.ones(3))
    >>> [row.structure for row in found.rows], found.injective
    (['a permutation', 'one number each'], 'proved')
    """
    seen = []

    g, given = prepared(as_partial(f), shapes(like), args)

    def look(x, *args):
        analysis = traced(g, x, args).analysis
        seen.append((analysis, _verdicts(analysis)))
        return []

    jax.eval_shape(look, shapes(like), *map(shapes, given))
    ((analysis, verdicts),) = seen
    rows = [_row(p, s, v) for p, s, v in zip(analysis.plans, analysis.segments, verdicts)]
    worst = [v for v in verdicts if v.startswith("refuted")] or [
        v for v in verdicts if v == "assumed"
    ]
    n = sum(s.size for s in analysis.program.main_in)
    return Inspection(n, rows, (worst or ["proved"])[0])


def _verdicts(analysis: Analysis) -> list[str]:
    try:
        injectivity.require_square(analysis)
    except injectivity.NotInjectiveError as refusal:
        return [f"refuted: {refusal}"] * len(analysis.plans)
    return judge_each(analysis)


def _row(plan: Plan | NestedEquation, segment: Segment, verdict: str) -> Row:
    names = [s.name for s in segment.equations]
    lines = list(dict.fromkeys(s.where for s in segment.equations if s.where))
    shown = ", ".join(names if len(names) < 5 else [*names[:2], "...", names[-1]])
    where = f"{shown} at {lines[0]}" if lines else shown
    structure, method, products, dense = _described(plan, segment)
    return Row(
        where=where,
        structure=structure,
        method=method,
        products=products,
        dense=dense,
        injective=verdict,
    )


def _described(plan: Plan | NestedEquation, segment: Segment) -> tuple[str, str, int, int]:
    """Return the structure, the method, the number of products and the size of determinants."""
    if isinstance(plan, NestedEquation):
        inner = [_described(p, s) for a in plan.analyses for p, s in zip(a.plans, a.segments)]
        each = "; ".join(dict.fromkeys(structure for structure, *_ in inner))
        products = max((x[2] for x in inner), default=0)
        dense = max((x[3] for x in inner), default=0)
        return f"{plan.kind}: {each}" if each else plan.kind, "inside", products, dense
    if plan.blocks is None:
        return "singular by its sparsity", "-inf", 0, 0
    for part in plan.parts:
        if isinstance(part, Bottleneck):
            size = sum(s.size for s in part.variables)
            return f"diagonal and rank {size}", "determinant lemma", 2 * size, size
    products = sum(len(p.seeds) for p in plan.parts if isinstance(p, Dense))
    dense = max((len(b.rows) for b in plan.blocks), default=0)
    names = {Singles: "entries", Dense: "products and LU" if dense > 1 else "products"}
    method = " and ".join(names[type(p)] for p in plan.parts) or "nothing to do"
    return _structure(plan, segment), method, products, dense if dense > 1 else 0


def _structure(plan: Plan, segment: Segment) -> str:
    sizes = [len(b.rows) for b in plan.blocks or [] if len(b.rows) > 1]
    if len(sizes) > 1:
        return f"{len(sizes)} blocks of up to {max(sizes)}"
    if sizes:
        return f"a block of {sizes[0]}"
    if not plan.separate:
        return "triangular"
    moves = all(is_move(s.name) for s in segment.equations)
    return "a permutation" if moves else "one number each"
