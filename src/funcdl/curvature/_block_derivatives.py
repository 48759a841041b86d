"""Parameters in derivatives: the leaves that vary, and the structure of vectors."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.operators import Space, space


class Leaves(NamedTuple):
    """Parameters, differentiated forward in some leaves and backward in others.

    Attributes:
        params: All parameters.
        rows: Globs of the leaves in which the output is a derivative.
        columns: Globs of the leaves in which a direction is passed.
    """

    params: PyTree
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def jvp(self, f: Callable, v: PyTree) -> tuple[PyTree, PyTree]:
        """Evaluate ``f(params)`` and its derivative along ``v``."""
        chosen, merge = _tree.select(self.params, self.columns)
        v = jax.tree.map(lambda x, p: x.astype(p.dtype), v, chosen)
        return jax.jvp(lambda c: f(merge(c)), (chosen,), (v,))

    def vjp(self, f: Callable, cotangent: PyTree) -> PyTree:
        """Pull a cotangent of ``f(params)`` back."""
        return backward(f, self.params, self.rows, cotangent)


def backward(f: Callable, params: PyTree, rows: tuple[str, ...], cotangent: PyTree) -> PyTree:
    """Pull a cotangent of ``f(params)`` back to the leaves that globs select."""
    chosen, merge = _tree.select(params, rows)
    return jax.vjp(lambda c: f(merge(c)), chosen)[1](cotangent)[0]


def vectors(params: PyTree) -> Space:
    """Return the space of vectors like the parameters, in at least float32."""
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _tree.wide(x.dtype)), params)
    return space(wide)
