"""Parameters in derivatives: the leaves that vary, and the structure of vectors."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._numerics import power_of_two
from funcdl._typing import Array, PyTree
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
    """Pull a cotangent of ``f(params)`` back to the leaves that globs select, in float32."""
    chosen, merge = _tree.select(params, rows)
    unit = narrow_unit(cotangent)
    scaled = jax.tree.map(lambda x: (x / unit).astype(x.dtype), cotangent)
    direction = jax.vjp(lambda c: f(merge(c)), chosen)[1](scaled)[0]
    return _tree.scale(unit, _tree.widened(direction))


def narrow_unit(x: PyTree) -> Array | float:
    """Return the unit in which a linear pass runs, so that its sums do not overflow in float16.

    Returns:
        A power of two, or 1 where no leaf is float16: wider dtypes have the range, and a unit that
        depends on the data would hide from jax that the pass is linear.
    """
    leaves = jax.tree.leaves(x)
    if all(leaf.dtype != jnp.float16 for leaf in leaves):
        return 1.0
    return power_of_two(jnp.stack([jnp.abs(leaf.astype(jnp.float32)).sum() for leaf in leaves]))


def vectors(params: PyTree) -> Space:
    """Return the space of vectors like the parameters, in at least float32."""
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _tree.wide(x.dtype)), params)
    return space(wide)
