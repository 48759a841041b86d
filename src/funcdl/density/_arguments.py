"""Functions and arguments prepared for tracing: values other than arrays become static."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from funcdl._closure import current
from funcdl._tree import path_text
from funcdl._typing import PyTree


@dataclass(frozen=True)
class Bound:
    """A function with those leaves of its arguments that are not arrays.

    Attributes:
        structure: The tree structure of the function and its arguments.
        static: A pair of a position and a value for each leaf that is not an array.
    """

    structure: Any
    static: tuple

    def __call__(self, *operands: Any, **keywords: Any) -> PyTree:
        *first, arrays = operands
        arrays, static = iter(arrays), dict(self.static)
        count = self.structure.num_leaves
        leaves = [static[at] if at in static else next(arrays) for at in range(count)]
        f, args = jax.tree.unflatten(self.structure, leaves)
        return f(*first, *args, **keywords)


def prepared(f: Partial, x: PyTree, args: tuple) -> tuple[Partial, tuple]:
    """Return a function and arguments that jax can trace, under an identity that jit may keep.

    A module of Equinox, or a NamedTuple with a method ``__call__``, holds arrays and other values.
    As an argument, or as the function itself, its arrays become inputs of the compiled program.

    Args:
        f: The function ``f(x, *args)``.
        x: Arrays or shapes.
        args: Trees of arrays and hashable values.

    Returns:
        The function and its arguments, whose leaves are arrays.

    Raises:
        TypeError: If a leaf of x is not an array, or one of args is neither an array nor hashable.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if not _is_array(leaf):
            raise TypeError(
                f"{_place('x', path)} is of type {type(leaf).__name__}; expected an array of floats"
            )
    is_plain = jax.tree.structure(f.func) == jax.tree.structure(0)
    if is_plain and isinstance(f.func, Hashable) and all(map(_is_array, jax.tree.leaves(args))):
        return current(f, x, *args), args
    # a callable object that defines == has no hash, but its method does
    function = f.func.__call__ if is_plain and not isinstance(f.func, Hashable) else f.func
    leaves, structure = jax.tree_util.tree_flatten_with_path((function, args))
    static = [(at, leaf) for at, (_, leaf) in enumerate(leaves) if not _is_array(leaf)]
    for at, leaf in static:
        if not isinstance(leaf, Hashable):
            first, *rest = leaves[at][0]
            place = _place("args" if first.idx else "f", tuple(rest))
            raise TypeError(
                f"{place} is of type {type(leaf).__name__}; expected an array or a hashable value, "
                "such as a function or a string"
            )
    arrays = [leaf for _, leaf in leaves if _is_array(leaf)]
    bound = Partial(Bound(structure, tuple(static)), *f.args, **f.keywords)
    return current(bound, x, arrays), (arrays,)


def _place(name: str, path: tuple) -> str:
    return f"{name}/{path_text(path)}" if path else name


def _is_array(leaf: Any) -> bool:
    """Tell whether a leaf is an array, a number, or the shape of one."""
    is_number = isinstance(leaf, bool | int | float | complex | np.generic)
    return is_number or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))
