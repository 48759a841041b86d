"""Find the label of a batch that is out of range, which JAX answers with NaN."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from funcdl import _jaxpr, _source, _tree
from funcdl._typing import PyTree

# The function is traced once, and only those of its equations are evaluated that depend on the
# batch alone: labels hardly ever depend on parameters. So no parameters are needed, which ``fit``
# has donated, and a large network costs nothing. A label shows at two places: at the check of
# funcdl's own losses, and at a gather whose mode fills with NaN, as in the losses of optax or in
# an embedding. Each known value carries the leaves it was computed from.

_LONGEST = 10_000  # the iterations of a loop that are searched


class OutOfRange(NamedTuple):
    """A label, or another index, that is out of range; print it.

    Attributes:
        value: The label as it stands in the batch, or the number computed from it.
        count: The number of outputs; 0 to ``count - 1`` are allowed.
        path: The path of its leaf in the batch; empty if the batch is a single array.
        index: The position in the leaf, example first; ``None`` if it was moved before its use.
        is_label: Whether it was given as a label; otherwise as an index of any kind.
    """

    value: int
    count: int
    path: str
    index: tuple[int, ...] | None
    is_label: bool

    def __str__(self):
        what = "label" if self.is_label else "label or index"
        place = f"at path {self.path!r}" if self.path else "in the batch"
        if self.index:
            place = f"of example {self.index[0]} {place}, index {self.index},"
        return (
            f"the {what} {self.value} {place} is out of range; expected 0 to {self.count - 1}"
            + (f", as there are {self.count} outputs" if self.is_label else "")
        )


def out_of_range(f: Callable, known: PyTree, batch: PyTree) -> OutOfRange | None:
    """Find the first label of a batch that is out of range for a function.

    Args:
        f: ``f(known, batch)``, such as the step of a program.
        known: The first argument of f; only its shapes are read.
        batch: The batch, as arrays.

    Returns:
        The label, or ``None`` if none was found.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), known)
    jaxpr = jax.make_jaxpr(f)(shapes, batch)
    leaves = [np.asarray(x) if _is_numeric(x) else None for x in jax.tree.leaves(batch)]
    values = [None if x is None else _Known(x, {i}) for i, x in enumerate(leaves)]
    search = _Search(leaves, _tree.paths(batch))
    _jaxpr.interpret(jaxpr, [None] * len(jax.tree.leaves(known)) + values, search.rule)
    return search.found


def _is_numeric(x: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended)


class _Known(NamedTuple):
    """A value that depends on the batch alone, and the leaves that it was computed from."""

    x: Any
    leaves: frozenset | set = frozenset()


class _Search:
    """An evaluation of the values that depend on the batch alone; the others are ``None``."""

    def __init__(self, leaves: list, paths: list[str]):
        self.leaves, self.paths = leaves, paths
        self.found: OutOfRange | None = None

    def rule(self, equation: jex.JaxprEqn, operands: list, plainly: Callable) -> list:
        """Evaluate one equation if all of its operands are known, and look at labels."""
        name = equation.primitive.name
        # literals and constants come as they are
        operands = [
            x if x is None or isinstance(x, _Known) or not _is_numeric(x) else _Known(x)
            for x in operands
        ]
        unknown = [None] * len(equation.outvars)
        if self.found is not None or equation.effects:
            return unknown
        if _source.function(equation)[0] == "labels_in_range":
            self.look(*operands)
        elif name == "gather":
            self.gather(equation, operands[1])
        is_of_batch = any(isinstance(x, _Known) and x.leaves for x in operands)
        if name in _jaxpr.CALLS_WITH_RULES:
            return _jaxpr.interpret(_jaxpr.called(equation), operands, self.rule)
        if name == "scan" and is_of_batch:
            return self.scan(equation, operands)
        if name in ("scan", "while", "cond") or not all(isinstance(x, _Known) for x in operands):
            return unknown
        leaves = frozenset().union(*(x.leaves for x in operands))
        return [_Known(y, leaves) if _is_numeric(y) else None for y in plainly(*_x(operands))]

    def scan(self, equation: jex.JaxprEqn, operands: list) -> list:
        """Search the iterations of a scan, such as those over the parts of a batch."""
        parts = _jaxpr.scan_parts(equation)
        first = parts.consts + parts.carry
        carry, order = operands[parts.consts : first], range(parts.options["length"])
        for i in (order[::-1] if parts.options["reverse"] else order)[:_LONGEST]:
            slices = [x and _Known(x.x[i], x.leaves) for x in operands[first:]]
            inputs = [*operands[: parts.consts], *carry, *slices]
            carry = _jaxpr.interpret(parts.body, inputs, self.rule)[: parts.carry]
        return [*carry, *[None] * (len(equation.outvars) - parts.carry)]

    def gather(self, equation: jex.JaxprEqn, index: _Known | None) -> None:
        """Look at the indices of a gather that gives NaN outside of its operand."""
        operand: Any = equation.invars[0].aval
        is_filled = equation.params["mode"] is jax.lax.GatherScatterMode.FILL_OR_DROP
        if index is None or not is_filled or not jnp.issubdtype(operand.dtype, jnp.inexact):
            return
        sizes, axes = equation.params["slice_sizes"], equation.params["dimension_numbers"]
        for k, axis in enumerate(axes.start_index_map):
            count = _Known(operand.shape[axis] - sizes[axis] + 1)
            self.look(index._replace(x=np.asarray(index.x)[..., k]), count, is_label=False)

    def look(self, labels: _Known | None, count: _Known | None, *, is_label: bool = True) -> None:
        """Compare labels with the number of outputs, and trace a wrong one back to its leaf."""
        if labels is None or count is None or not labels.leaves:
            return
        x, n = np.asarray(labels.x), int(np.max(count.x))
        wrong = np.flatnonzero((x < 0) | (x >= n))
        if wrong.size and self.found is None:
            self.found = self.source(x.ravel(), int(wrong[0]), sorted(labels.leaves), n)._replace(
                is_label=is_label
            )

    def source(self, x: np.ndarray, at: int, leaves: list[int], n: int) -> OutOfRange:
        """Return the entry of a leaf from which ``x[at]`` was computed."""
        whole = [i for i in leaves if np.issubdtype(self.leaves[i].dtype, np.integer)] or leaves
        for i in whole:  # where no element was moved, the position tells
            if self.leaves[i].size == x.size:
                index = np.unravel_index(at, self.leaves[i].shape)
                return self.entry(i, index, n)
        for i in whole:  # in a part of the batch, the value does
            places = np.argwhere(self.leaves[i] == x[at])
            if places.size:
                return self.entry(i, tuple(places[0]), n)
        return OutOfRange(int(x[at]), n, self.paths[whole[0]], None, True)

    def entry(self, i: int, index: tuple, n: int) -> OutOfRange:
        """Describe one entry of a leaf."""
        value = int(self.leaves[i][index])
        return OutOfRange(value, n, self.paths[i], tuple(int(k) for k in index), True)


def _x(operands: list) -> list:
    return [value.x for value in operands]
