"""The inverse of a plain function, with its log-determinant."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcdl._closure import as_partial
from funcdl._typing import Function, PyTree, Scalar
from funcdl.density._analysis import run
from funcdl.density._arguments import prepared
from funcdl.density._inversion.invert import invert
from funcdl.density._trace import Traced, require_like, traced


def inverse(f: Function, like: PyTree | None = None) -> Function:
    r"""Invert a function, :math:`x = f^{-1}(y)`.

    Known numbers are propagated backward and forward through the operations of f. The numbers that
    stay unknown are solved for by damped Newton steps on the blocks of the Jacobian, with the
    derivatives of the implicit function. The residual is checked: the result is NaN if the
    iteration did not converge or the map turned out not to be injective, and
    ``jax.experimental.checkify`` then reports the segment.

    The map is proved or refuted to be injective where its structure allows: by counting numbers, by
    the domains of the operations (``x**2`` after ``exp`` is fine), by bounds of derivatives, and by
    trial points. A map that passes all of these is assumed to be injective; ``inspect`` tells which
    is the case.

    Args:
        f: The function ``f(x, *args)`` of one point.
        like: Arrays or shapes of the form of x; by default x has the form of y.

    Returns:
        A function ``inverted(y, *args) -> x``.

    Raises:
        NotInjectiveError: If several points have the same image. The message names the operation
            with its file and line.
        TypeError: If a leaf of x is not floating point.
        ValueError: If y does not have the form of f(x).

    >>> import jax.numpy as jnp
    >>> inverse(lambda x: x + jnp.tanh(x))(jnp.array([1.0 + jnp.tanh(1.0)])).round(5)
    Array([1.], dtype=float32)
    """
    f, like = as_partial(f), shapes(like)

    def inverted(y, *args):
        g, given = prepared(f, point(like, y), args)
        return _inverted(g, StaticShapes(like), y, given)[0]

    return inverted


def inverse_and_log_det(f: Function, like: PyTree | None = None) -> Function:
    r"""Invert a function and compute :math:`\log|\det \partial f^{-1}/\partial y|`.

    The log-determinant is the negative of that of f at x, so that both directions agree exactly.

    Args:
        f: The function ``f(x, *args)`` of one point.
        like: Arrays or shapes of the form of x; by default x has the form of y.

    Returns:
        A function ``inverted(y, *args) -> (x, log_det)``.

    Raises:
        NotInjectiveError: If several points have the same image.
        TypeError: If a leaf of x is not floating point.
        ValueError: If y does not have the form of f(x).

    >>> import jax.numpy as jnp
    >>> x, log_det = inverse_and_log_det(jnp.exp)(jnp.array([1.0, jnp.e]))
    >>> [x.round(4).tolist(), log_det.round(4).item()]
    [[0.0, 1.0], -1.0]
    """
    f, like = as_partial(f), shapes(like)

    def inverted(y, *args):
        g, given = prepared(f, point(like, y), args)
        x, log_det, _ = inverted_with_log_det(g, StaticShapes(like), y, given)
        return x, log_det

    return inverted


@jax.tree_util.register_static
class StaticShapes:
    """A tree of shapes as a static argument of ``jax.jit``."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, self.structure = jax.tree.flatten(tree)
        self.forms = tuple((leaf.shape, leaf.dtype) for leaf in leaves)

    def __hash__(self) -> int:
        return hash((self.structure, self.forms))

    def __eq__(self, other: Any) -> bool:
        return (self.structure, self.forms) == (other.structure, other.forms)


def point(like: PyTree | None, y: PyTree) -> PyTree:
    """Return the shapes and dtypes of x; those of y if ``like`` is None."""
    return shapes(y) if like is None else like


def shapes(tree: PyTree) -> PyTree:
    """Return the shapes and dtypes of a tree of arrays."""
    return jax.tree.map(lambda l: jax.ShapeDtypeStruct(np.shape(l), jnp.result_type(l)), tree)


@jax.jit
def _inverted(f: Partial, like: StaticShapes, y: PyTree, args: tuple) -> tuple:
    x, reached, _ = _solved(f, like, y, args)
    return x, reached


def _solved(
    f: Partial, like: StaticShapes, y: PyTree, args: tuple, is_replaced: bool = False
) -> tuple[PyTree, Any, Traced]:
    """Return x, whether y is in the image of f, and the analysis of f."""
    template = point(like.tree, y)
    leaves, structure = jax.tree.flatten(template)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"x has a leaf of dtype {leaf.dtype}; only floats can be solved for")
    program = traced(f, template, args)
    require_like(y, program.out)
    values = [*[None] * len(leaves), *jax.tree.leaves(args)]
    x, reached = invert(program.analysis, jax.tree.leaves(y), values, is_replaced)
    return jax.tree.unflatten(structure, x), reached, program


@partial(jax.jit, static_argnums=4)
def inverted_with_log_det(
    f: Partial, like: StaticShapes, y: PyTree, args: tuple, is_replaced: bool = False
) -> tuple[PyTree, Scalar, Any]:
    """Invert f and compute the log-determinant of the inverse.

    Args:
        f: The function ``f(x, *args)``.
        like: The form of x; that of y if the tree is None.
        y: The image of the point.
        args: The other arguments of f.
        is_replaced: Whether numbers outside of the image are replaced by others, so that x is
            finite and has a gradient.

    Returns:
        x, the log-determinant, and whether y is in the image of f.
    """
    x, reached, program = _solved(f, like, y, args, is_replaced)
    _, log_det = run(program.analysis, jax.tree.leaves((x, args)))
    return x, -log_det, reached
