"""A function and its arguments as an analyzed program; refusals of what has no log-determinant."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._tree import path_text
from funcdl._typing import PyTree
from funcdl.density._analysis import analyze
from funcdl.density._control_flow.base import Analysis


class Traced(NamedTuple):
    """A function at the shapes of its arguments.

    Attributes:
        analysis: Of its jaxpr.
        floats: Positions among the leaves of x that are differentiated.
        made: Positions among the leaves of f(x).
        out: The structure of f(x), of shapes.
    """

    analysis: Analysis
    floats: list[int]
    made: list[int]
    out: PyTree


def traced(f: Callable, x: PyTree, args: tuple) -> Traced:
    """Trace a function of one point and plan its log-determinant.

    Integers and Booleans among the leaves of x are data: they have no Jacobian.

    Args:
        f: ``f(x, *args)``.
        x: Arrays or shapes.
        args: Held fixed.

    Returns:
        The analyzed program.

    Raises:
        TypeError: If a leaf is complex.
        ValueError: If f(x) has not as many numbers as x.
    """
    floats, n = float_leaves(x, "x")
    closed, out = jax.make_jaxpr(f, return_shape=True)(x, *args)
    made, m = float_leaves(out, "f(x)")
    if m != n:
        more = "value_and_log_volume treats maps into more dimensions"
        less = "its density would be an integral over the numbers that are lost"
        raise ValueError(
            f"f maps {n} numbers to {m}; a log-determinant needs as many "
            f"({more if m > n else less})"
        )
    return Traced(analyze(closed, floats, made), floats, made, out)


def float_leaves(tree: PyTree, name: str) -> tuple[list[int], int]:
    """The positions of the float leaves, and how many numbers they hold."""
    found, count = [], 0
    for at, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name}{path_text(path)} is {dtype}; split it into real and imaginary part, a "
                "density is over real numbers"
            )
        if jnp.issubdtype(dtype, jnp.floating):
            found.append(at)
            count += int(np.prod(np.shape(leaf)))
    return found, count


def require_like(y: PyTree, out: PyTree, name: str = "y") -> None:
    """Refuse what has not the form of f(x).

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
            f"{name} is {structures[0]}; f of a point like `like` gives {structures[1]}; say "
            "what x looks like with like="
        )
