"""Trace a function into an analyzed program, and refuse functions without a log-determinant."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._tree import path_text
from funcdl._typing import Function, PyTree
from funcdl.density._analysis import analyze
from funcdl.density._control_flow.base import Analysis


class Traced(NamedTuple):
    """A function traced at the shapes of its arguments.

    Attributes:
        analysis: The analysis of its jaxpr.
        floats: The positions of the float leaves of x.
        made: The positions of the float leaves of f(x).
        out: The shapes and dtypes of f(x).
    """

    analysis: Analysis
    floats: list[int]
    made: list[int]
    out: PyTree


def traced(f: Function, x: PyTree, args: tuple) -> Traced:
    """Trace a function of one point and plan its log-determinant.

    Integer and Boolean leaves of x are data, because they have no Jacobian.

    Args:
        f: The function ``f(x, *args)``.
        x: Arrays or shapes.
        args: Arrays or shapes of the other arguments, which are held fixed.

    Returns:
        The analyzed program.

    Raises:
        TypeError: If a leaf of x or f(x) is complex.
        ValueError: If x and f(x) differ in the number of floats.
    """
    floats, n = float_leaves(x, "x")
    closed, out = jax.make_jaxpr(f, return_shape=True)(x, *args)
    made, m = float_leaves(out, "f(x)")
    if m != n:
        more = "value_and_log_volume treats maps into more dimensions"
        less = "its density would be an integral over the numbers that are lost"
        raise ValueError(
            f"f maps {n} numbers to {m}; a log-determinant needs as many outputs as inputs "
            f"({more if m > n else less})"
        )
    return Traced(analyze(closed, floats, made), floats, made, out)


def float_leaves(tree: PyTree, name: str) -> tuple[list[int], int]:
    """Return the positions of the float leaves, and how many numbers they hold.

    Raises:
        TypeError: If a leaf is complex.
    """
    positions, count = [], 0
    for at, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name}{path_text(path)} is {dtype}; split it into its real and imaginary parts, "
                "because a density is over real numbers"
            )
        if jnp.issubdtype(dtype, jnp.floating):
            positions.append(at)
            count += int(np.prod(np.shape(leaf)))
    return positions, count


def require_like(y: PyTree, out: PyTree) -> None:
    """Refuse a y that does not have the form of f(x).

    Args:
        y: The tree to check.
        out: The shapes and dtypes of f(x).

    Raises:
        ValueError: Names both forms.
    """

    def form(tree):
        shapes = jax.tree.map(lambda l: jax.ShapeDtypeStruct(l.shape, jnp.result_type(l)), tree)
        leaves, structure = jax.tree.flatten(shapes)
        return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

    if form(y) != form(out):
        structures = [
            jax.tree.map(lambda l: f"{jnp.result_type(l)}{list(np.shape(l))}", t) for t in (y, out)
        ]
        raise ValueError(
            f"y is {structures[0]}, but f of a point of the form `like` is {structures[1]}; pass "
            "an example of x, or its shapes, as like= (by default x has the form of y)"
        )
