"""Operators from plain functions and from matrices."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._closure import hoisted
from funcdl._typing import Array, Float, Shaped
from funcdl.operators._core.algebra import like
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action, Space, space


def from_function(
    f: Callable, like: Shaped, *, symmetric: bool = False, psd: bool = False
) -> LinearOperator:
    """Lift a linear function to a ``LinearOperator``.

    Args:
        f: Linear ``f(v) -> w`` between pytrees; hand it over as a ``jax.tree_util.Partial`` if it
            is made anew at each call, else each one is a new compilation.
        like: A tree of the form of ``v``; only shapes and dtypes are read.
        symmetric: Whether the map equals its transpose; taken on trust.
        psd: Whether it is also positive semi-definite; taken on trust, implies ``symmetric``.

    Returns:
        The operator; its transpose comes from ``jax.linear_transpose``.

    Raises:
        ValueError: If a symmetric map does not return a vector of the form of ``like``.

    >>> A = from_function(lambda v: 2 * v, jnp.zeros(3), symmetric=True)
    >>> (A @ jnp.ones(3)).tolist(), A.shift(1.0).dense().trace().item()
    ([2.0, 2.0, 2.0], 9.0)
    """
    space_in = space(like)
    f = hoisted(f, (space_in.tree,))
    space_out = space(jax.eval_shape(f, space_in.tree))
    if (symmetric or psd) and space_in != space_out:
        raise ValueError(
            f"a symmetric map returns the form that it takes; it takes {space_in.tree} "
            f"and returns {space_out.tree}"
        )
    return LinearOperator(_FUNCTION, f, space_in, space_out, symmetric or psd, psd)


def from_dense(
    matrix: Float[Array, "m n"], *, symmetric: bool = False, psd: bool = False
) -> LinearOperator:
    """Take a matrix as an operator on vectors ``(n,)``, which have at least float32.

    Args:
        matrix: The matrix, ``(m, n)``.
        symmetric: Whether it equals its transpose; taken on trust.
        psd: Whether it is also positive semi-definite; taken on trust.

    Returns:
        The operator.

    Raises:
        ValueError: If a symmetric matrix is not square, or ``matrix`` is not 2-D.

    >>> (from_dense(jnp.asarray([[1.0, 2.0], [3.0, 4.0]])).T @ jnp.ones(2)).tolist()
    [4.0, 6.0]
    """
    if jnp.ndim(matrix) != 2 or ((symmetric or psd) and matrix.shape[0] != matrix.shape[1]):
        kind = "square " if symmetric or psd else ""
        raise ValueError(f"matrix has shape {jnp.shape(matrix)}; expected a {kind}2-D array")
    _tree.check_floating(matrix, "matrix")
    action = _PSD if psd else _SQUARE if matrix.shape[0] == matrix.shape[1] else _MATRIX
    return matrix_operator(action, matrix, symmetric or psd, psd)


def materialize(A: LinearOperator, *, max_bytes: int = 2**31) -> LinearOperator:
    """Write an operator out as a matrix between the same trees: ``solve``, ``logdet`` are direct.

    Args:
        A: Any operator.
        max_bytes: Refuse beyond this size, before anything is allocated.

    Returns:
        The same map, with the marks ``symmetric`` and ``psd`` of A; so has its ``block``. Where
        the matrix is singular, ``solve`` and ``logdet`` are noise or NaN: shift it.

    Raises:
        ValueError: If the matrix would need more than ``max_bytes``.

    >>> A = from_function(lambda v: {"w": 2 * v["w"]}, {"w": jnp.zeros(3)}, psd=True)
    >>> materialize(A).solve({"w": jnp.ones(3)})["w"].tolist()
    [0.5, 0.5, 0.5]
    """
    check_operator(A)
    matrix = A.dense(max_bytes=max_bytes)
    matrix = (matrix + matrix.T) / 2 if A.symmetric else matrix
    flat = from_dense(matrix, symmetric=A.symmetric, psd=A.psd)
    return _between_trees(flat, A.space_in, A.space_out)


def _between_trees(flat: LinearOperator, space_in: Space, space_out: Space) -> LinearOperator:
    action = _tree_action(space_in, space_out, flat.action)
    return LinearOperator(action, flat, space_in, space_out, flat.symmetric, flat.psd)


@functools.cache  # equal for equal forms, so that operators compile once
def _tree_action(space_in: Space, space_out: Space, flat: Action) -> Action:
    (ravel_in, unravel_in), (ravel_out, unravel_out) = (
        _tree.ravel(form.tree) for form in (space_in, space_out)
    )

    def shift(a: LinearOperator, damping) -> LinearOperator:
        return _between_trees(a.shift(damping), space_in, space_out)

    def block(a: LinearOperator, rows, columns) -> LinearOperator:
        forms = [(space_out, rows), (space_in, columns)]
        out, into = (space(_tree.select(form.tree, globs).chosen) for form, globs in forms)
        places = [_places(form, globs) for form, globs in forms]
        same = a.symmetric and out == into
        part = from_dense(a.dense()[jnp.ix_(*places)], symmetric=same, psd=same and a.psd)
        return _between_trees(part, into, out)

    action = Action(
        lambda a, v: unravel_out(a @ ravel_in(v)),
        lambda a, w: unravel_in(a.T @ ravel_out(w)),
        block,
        solve=lambda a, b: unravel_in(a.solve(ravel_out(b))),
        logdet=lambda a: a.logdet(),
        dense=lambda a: a.dense(),
        shift=flat.shift and shift,
    )
    return like(action, flat)


def _places(form: Space, globs) -> np.ndarray:
    """Return where the numbers of chosen leaves lie in the flat vector."""
    chosen = _tree.matches(form.tree, globs)
    marks = [np.full(math.prod(x.shape), c) for x, c in zip(form.leaves, chosen)]
    return np.flatnonzero(np.concatenate(marks))


def matrix_operator(action: Action, matrix: Array, symmetric=False, psd=False) -> LinearOperator:
    """Make an operator whose operand is a matrix, on vectors ``(n,)`` of at least float32."""
    m, n = (flat_space(size, matrix.dtype) for size in matrix.shape)
    return LinearOperator(action, matrix, n, m, symmetric, psd)


def flat_space(size: int, dtype) -> Space:
    """Return the form of vectors ``(size,)`` of at least float32."""
    return space(jax.ShapeDtypeStruct((size,), _tree.wide(dtype)))


def check_operator(a, name: str = "A") -> None:
    """Refuse what is no operator.

    Raises:
        TypeError: Says how to make one.
    """
    if not isinstance(a, LinearOperator):
        if hasattr(a, "as_scipy"):
            raise TypeError(
                f"{name} is a {type(a).__name__}, an operator of the host; give {name}.as_scipy() "
                "to scipy.sparse.linalg, or data in memory to its builder"
            )
        raise TypeError(
            f"{name} is a {type(a).__name__}; expected a LinearOperator: "
            "operators.from_dense(matrix), operators.from_function(f, like) or one of "
            "funcdl.curvature"
        )


def _solve(a, b):
    return jnp.linalg.solve(a.astype(b.dtype), b)


def _solve_psd(a, b):
    a = a.astype(b.dtype)
    factor = jax.scipy.linalg.cho_factor(jax.lax.stop_gradient(a), lower=True)

    def solve(_, b):
        return jax.scipy.linalg.cho_solve(factor, b)

    # the live matrix in the equation: it is symmetric at this point, not along every path from it
    matvec = lambda x: jnp.matmul(a, x, precision="highest")
    return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)


def _logdet(a):
    return jnp.linalg.slogdet(a.astype(_tree.wide(a.dtype)))[1]


def _shift(a, damping):
    wide = a.astype(_tree.wide(a.dtype))
    return from_dense(wide + damping * jnp.eye(len(a), dtype=wide.dtype))


_FUNCTION = Action(lambda f, v: f(v))
_MATRIX = Action(lambda a, v: a @ v, lambda a, w: w @ a)
_SQUARE = _MATRIX._replace(solve=_solve, logdet=_logdet, shift=_shift)
_PSD = _SQUARE._replace(solve=_solve_psd)
