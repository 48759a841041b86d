"""The static half of an operator: its functions, and the structure of the vectors it maps."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from funcdl import _tree
from funcdl._typing import PyTree, Shaped

Operator = Any  # a LinearOperator, whose module imports the ones that use this name


class Action(NamedTuple):
    r"""The functions that define an operator; at module level, so that nothing is retraced.

    Attributes:
        matvec: ``matvec(operands, v) -> A v``.
        transpose: ``transpose(operands, w) -> Aᵀ w``; ``None`` uses ``jax.linear_transpose``.
        block: ``block(operands, rows, columns) -> LinearOperator``, where this is cheaper than
            products with zero-padded vectors.
        solve: ``solve(operands, b) -> x`` with ``A x = b``, where a direct method exists.
        logdet: ``logdet(operands) -> log |det A|``, where a direct method exists.
        dense: ``dense(operands) -> (n_out, n_in)``, where this is faster than one product per
            column; it may return ``None`` for operands without a faster way.
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

    treedef: Any  # a jax.tree_util.PyTreeDef, a name that type checkers reject
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def tree(self) -> PyTree:
        """The tree of ``jax.ShapeDtypeStruct``."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    @property
    def size(self) -> int:
        """The number of entries of a vector."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves)


def space(like: Shaped) -> Space:
    """Return the structure, shapes and dtypes of a vector.

    Args:
        like: A pytree of float arrays, or of anything with ``shape`` and ``dtype``.

    Returns:
        The static description.

    Raises:
        TypeError: If a leaf is not of a float dtype; the message names its path.
        ValueError: If the tree is empty.
    """
    _tree.check_shaped(like, "the vector")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    _tree.check_floating(shapes, "the vector")
    leaves, treedef = jax.tree.flatten(shapes)
    return Space(treedef, tuple(leaves))
