"""The static half of an operator: what it does and between which forms of vectors."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from funcdl import _tree
from funcdl._typing import PyTree


class Action(NamedTuple):
    r"""What an operator does: module-level functions of its operands, so that nothing retraces.

    Attributes:
        matvec: ``matvec(operands, v) -> A v``.
        transpose: ``transpose(operands, w) -> Aᵀ w``; ``None`` takes jax's linear transpose.
        block: ``block(operands, rows, columns) -> LinearOperator``, where a cheaper way than
            products with zero-padded vectors exists.
        solve: ``solve(operands, b) -> x`` with ``A x = b``, where there is a direct way.
        logdet: ``logdet(operands) -> log |det A|``, likewise.
        dense: ``dense(operands) -> (n_out, n_in)``, where there is a faster way than columns; it
            may return ``None`` where for these operands there is none.
        shift: ``shift(operands, damping) -> LinearOperator``, where :math:`A + \lambda I` has a
            ``solve`` or a ``logdet`` too.
    """

    matvec: Callable
    transpose: Callable | None = None
    block: Callable | None = None
    solve: Callable | None = None
    logdet: Callable | None = None
    dense: Callable | None = None
    shift: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Space:
    """Structure, shapes and dtypes of a pytree, as one hashable value."""

    treedef: jax.tree_util.PyTreeDef
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def tree(self) -> PyTree:
        """The tree of ``jax.ShapeDtypeStruct``."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    @property
    def size(self) -> int:
        """How many numbers a vector of this form has."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves)


def space(like: PyTree) -> Space:
    """Read the form of a vector.

    Args:
        like: A tree of float arrays, or of anything with ``shape`` and ``dtype``.

    Returns:
        The static form.

    Raises:
        TypeError: If a leaf is not of floats; its path is named.
        ValueError: If there are no leaves.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    _tree.check_floating(shapes, "the vector")
    leaves, treedef = jax.tree.flatten(shapes)
    return Space(treedef, tuple(leaves))
