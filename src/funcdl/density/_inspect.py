"""What was found in a function: its segments, their structure, cost and injectivity."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from funcdl._closure import as_partial
from funcdl._typing import PyTree
from funcdl.density._control_flow.base import Lifted
from funcdl.density._inverse import shapes
from funcdl.density._inversion import injectivity as _injective
from funcdl.density._inversion.invert import judge_each
from funcdl.density._jacobian.parts import Bottleneck, Dense, Plan, Singles
from funcdl.density._primitives.table import is_move
from funcdl.density._trace import traced


class Row(NamedTuple):
    """One segment.

    Attributes:
        where: The operations and the lines that they come from.
        structure: What was found.
        method: How the log-determinant is computed.
        products: Forward products with the segment's Jacobian that this takes.
        dense: The size of the largest dense determinant.
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
        numbers: How many numbers the function maps.
        rows: One a segment.
        injective: ``proved``, ``assumed`` or ``refuted: ...``, of the whole.
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


def inspect(f: Callable, like: PyTree, *args) -> Inspection:
    """Show what was found in a function.

    Args:
        f: ``f(x, *args)``, of one point.
        like: Arrays or shapes of the form of x.
        args: Arrays or shapes.

    Returns:
        A table; ``print`` it.

    Raises:
        TypeError: If x or f(x) has a complex leaf.
        ValueError: If f(x) has not as many floats as x.

    >>> import jax.numpy as jnp
    >>> found = inspect(lambda x: jnp.exp(x[::-1]), jnp.ones(3))
    >>> [row.structure for row in found.rows], found.injective
    (['a permutation', 'one number each'], 'proved')
    """
    found = []

    def look(*args):
        known = traced(as_partial(f), *args[:1], args[1:])
        found.append((known.analysis, _verdicts(known.analysis)))
        return []

    jax.eval_shape(look, shapes(like), *map(shapes, args))
    ((analysis, verdicts),) = found
    rows = [_row(p, s, v) for p, s, v in zip(analysis.plans, analysis.segments, verdicts)]
    worst = [v for v in verdicts if v.startswith("refuted")] or [
        v for v in verdicts if v == "assumed"
    ]
    n = sum(s.size for s in analysis.program.main_in)
    return Inspection(n, rows, (worst or ["proved"])[0])


def _verdicts(analysis) -> list[str]:
    try:
        _injective.require_square(analysis)
    except _injective.NotInjectiveError as refusal:
        return [f"refuted: {refusal}"] * len(analysis.plans)
    return judge_each(analysis)


def _row(plan: Plan | Lifted, segment, verdict: str) -> Row:
    names = [s.name for s in segment.equations]
    lines = list(dict.fromkeys(s.where for s in segment.equations if s.where))
    shown = ", ".join(names if len(names) < 5 else [*names[:2], "...", names[-1]])
    where = f"{shown} at {lines[0]}" if lines else shown
    return Row(where, *_described(plan, segment), verdict)


def _described(plan: Plan | Lifted, segment) -> tuple[str, str, int, int]:
    if isinstance(plan, Lifted):
        inner = [_described(p, s) for a in plan.analyses for p, s in zip(a.plans, a.segments)]
        each = "; ".join(dict.fromkeys(structure for structure, *_ in inner))
        products, dense = (max([x[k] for x in inner], default=0) for k in (2, 3))
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


def _structure(plan: Plan, segment) -> str:
    sizes = [len(b.rows) for b in plan.blocks if len(b.rows) > 1]
    if len(sizes) > 1:
        return f"{len(sizes)} blocks of up to {max(sizes)}"
    if sizes:
        return f"a block of {sizes[0]}"
    if not plan.separate:
        return "triangular"
    moves = all(is_move(s.name) for s in segment.equations)
    return "a permutation" if moves else "one number each"
