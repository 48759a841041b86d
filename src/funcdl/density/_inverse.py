"""The inverse of a plain function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcdl._closure import as_partial
from funcdl._typing import PyTree
from funcdl.density._analysis import run
from funcdl.density._inversion.invert import invert
from funcdl.density._trace import require_like, traced


def inverse(f: Callable, like: PyTree | None = None) -> Callable:
    r"""Invert a function, :math:`x = f^{-1}(y)`.

    Known numbers are propagated backward and forward through the operations of f; what that leaves
    is solved by damped Newton steps on the blocks of the Jacobian, with the derivatives of the
    implicit function. The residual is checked: what did not converge, or turned out not to be
    injective, is NaN, and named if the function runs under ``jax.experimental.checkify``.

    Injectivity is shown or refuted where the structure allows: by counting, by the domains of the
    operations (``x**2`` after ``exp`` is fine), by bounds of derivatives, by trial. A map that
    passes all of that is assumed injective; ``inspect`` says which is the case.

    Args:
        f: ``f(x, *args)``, of one point.
        like: Arrays or shapes of the form of x; by default x has the form of y.

    Returns:
        ``inverted(y, *args) -> x``.

    Raises:
        NotInjectiveError: If several points have the same image; with the operation, file and line.
        TypeError: If x has leaves that are no floats.
        ValueError: If y is not of the form of f(x).

    >>> import jax.numpy as jnp
    >>> inverse(lambda x: x + jnp.tanh(x))(jnp.array([1.0 + jnp.tanh(1.0)])).round(5)
    Array([1.], dtype=float32)
    """
    f, like = as_partial(f), shapes(like)
    return lambda y, *args: _inverted(f, StaticShapes(like), y, args)[0]


def inverse_and_log_det(f: Callable, like: PyTree | None = None) -> Callable:
    r"""Invert a function and compute :math:`\log|\det \partial f^{-1}/\partial y|`.

    It is the negative of the log-determinant of f at x: one way to one number, forward and back.

    Args:
        f: ``f(x, *args)``, of one point.
        like: Arrays or shapes of the form of x; by default x has the form of y.

    Returns:
        ``inverted(y, *args) -> (x, log_det)``.

    Raises:
        NotInjectiveError: If several points have the same image.
        TypeError: If x has leaves that are no floats.
        ValueError: If y is not of the form of f(x).

    >>> import jax.numpy as jnp
    >>> x, log_det = inverse_and_log_det(jnp.exp)(jnp.array([1.0, jnp.e]))
    >>> [x.round(4).tolist(), log_det.round(4).item()]
    [[0.0, 1.0], -1.0]
    """
    f, like = as_partial(f), shapes(like)

    def inverted(y, *args):
        x, log_det, _ = inverted_with_log_det(f, StaticShapes(like), y, args)
        return x, log_det

    return inverted


@jax.tree_util.register_static
class StaticShapes:
    """Shapes as a static argument."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, self.structure = jax.tree.flatten(tree)
        self.forms = tuple((leaf.shape, leaf.dtype) for leaf in leaves)

    def __hash__(self) -> int:
        return hash((self.structure, self.forms))

    def __eq__(self, other) -> bool:
        return (self.structure, self.forms) == (other.structure, other.forms)


def shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda l: jax.ShapeDtypeStruct(np.shape(l), jnp.result_type(l)), tree)


@jax.jit
def _inverted(f: Partial, like: StaticShapes, y: PyTree, args: tuple) -> tuple:
    x, reached, _ = _solved(f, like, y, args)
    return x, reached


def _solved(f: Partial, like: StaticShapes, y: PyTree, args: tuple) -> tuple:
    template = shapes(y) if like.tree is None else like.tree
    leaves, structure = jax.tree.flatten(template)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"x has a leaf of dtype {leaf.dtype}; only floats can be solved for")
    known = traced(f, template, args)
    require_like(y, known.out)
    unknown = [None] * len(leaves)
    found, reached = invert(known.analysis, jax.tree.leaves(y), unknown + jax.tree.leaves(args))
    return jax.tree.unflatten(structure, found), reached, known


@jax.jit
def inverted_with_log_det(f: Partial, like: StaticShapes, y: PyTree, args: tuple) -> tuple:
    x, reached, known = _solved(f, like, y, args)
    _, log_det = run(known.analysis, jax.tree.leaves((x, args)))
    return x, -log_det, reached
