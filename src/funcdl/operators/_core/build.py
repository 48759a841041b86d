"""Operators from plain functions and from matrices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._closure import hoisted
from funcdl._typing import Array, ArrayLike, DTypeLike, Float, Function, Globs, Shaped
from funcdl.operators._core.algebra import like
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action, Space, space


def from_function(
    f: Function, like: Shaped, *, symmetric: bool = False, psd: bool = False
) -> LinearOperator:
    """Wrap a linear function in a ``LinearOperator``.

    Args:
        f: A linear function ``f(v) -> w`` between pytrees. If it is a new function in each
            call, pass it as a ``jax.tree_util.Partial``; otherwise each call compiles again.
        like: A pytree with the structure of ``v``; only shapes and dtypes are read.
        symmetric: Whether the map equals its transpose; not checked.
        psd: Whether the map is also positive semi-definite; not checked, implies ``symmetric``.

    Returns:
        The operator; its transpose comes from ``jax.linear_transpose``.

    Raises:
        ValueError: If a map that is marked symmetric does not return vectors like ``like``.

    >>> A = from_function(lambda v: 2 * v, jnp.zeros(3), symmetric=True)
    >>> (A @ jnp.ones(3)).tolist(), A.shift(1.0).dense().trace().item()
    ([2.0, 2.0, 2.0], 9.0)
    """
    space_in = space(like)
    f = hoisted(f, (space_in.tree,))
    space_out = space(jax.eval_shape(f, space_in.tree))
    if (symmetric or psd) and space_in != space_out:
        raise ValueError(
            "a symmetric map returns vectors of the same structure as its argument; "
            f"this one takes {space_in.tree} and returns {space_out.tree}"
        )
    return LinearOperator(_FUNCTION, f, space_in, space_out, symmetric or psd, psd)


def from_dense(
    matrix: Float[Array, "m n"], *, symmetric: bool = False, psd: bool = False
) -> LinearOperator:
    """Return a matrix as an operator on vectors ``(n,)`` in at least float32.

    Args:
        matrix: The matrix, ``(m, n)``.
        symmetric: Whether the matrix equals its transpose; not checked.
        psd: Whether the matrix is also positive semi-definite; not checked.

    Returns:
        The operator.

    Raises:
        ValueError: If a matrix that is marked symmetric is not square, or ``matrix`` is not 2-D.

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
    """Compute the matrix of an operator, so that ``solve`` and ``logdet`` are direct.

    Args:
        A: Any operator.
        max_bytes: The largest size that is allowed; checked before anything is allocated.

    Returns:
        The same map between the same trees, with the ``symmetric`` and ``psd`` marks of A; each
        ``block`` of it is a matrix too. Where the matrix is singular, ``solve`` and ``logdet``
        return noise or NaN: shift it.

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


@functools.cache  # equal for equal structures, so that operators compile once
def _tree_action(space_in: Space, space_out: Space, flat: Action) -> Action:
    (ravel_in, unravel_in), (ravel_out, unravel_out) = (
        _tree.ravel(form.tree) for form in (space_in, space_out)
    )

    def shift(a: LinearOperator, damping) -> LinearOperator:
        return _between_trees(a.shift(damping), space_in, space_out)

    def block(a: LinearOperator, rows, columns) -> LinearOperator:
        forms = [(space_out, rows), (space_in, columns)]
        out, into = (space(_tree.select(form.tree, globs).chosen) for form, globs in forms)
        indices = [_flat_indices(form, globs) for form, globs in forms]
        same = a.symmetric and out == into
        part = from_dense(a.dense()[jnp.ix_(*indices)], symmetric=same, psd=same and a.psd)
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


def _flat_indices(form: Space, globs: Globs) -> np.ndarray:
    """Return the positions of the entries of chosen leaves in the flat vector."""
    chosen = _tree.matches(form.tree, globs)
    marks = [np.full(math.prod(x.shape), c) for x, c in zip(form.leaves, chosen)]
    return np.flatnonzero(np.concatenate(marks))


def matrix_operator(
    action: Action, matrix: Array, symmetric: bool = False, psd: bool = False
) -> LinearOperator:
    """Build an operator whose operand is a matrix, on vectors ``(n,)`` in at least float32."""
    m, n = (flat_space(size, matrix.dtype) for size in matrix.shape)
    return LinearOperator(action, matrix, n, m, symmetric, psd)


def flat_space(size: int, dtype: DTypeLike) -> Space:
    """Return the space of vectors ``(size,)`` in at least float32."""
    return space(jax.ShapeDtypeStruct((size,), _tree.wide(dtype)))


def check_operator(a: object, name: str = "A") -> None:
    """Raise an error if an argument is not a ``LinearOperator``.

    Raises:
        TypeError: If it is not one; the message says how to build one.
    """
    if not isinstance(a, LinearOperator):
        if hasattr(a, "as_scipy"):
            raise TypeError(
                f"{name} is a {type(a).__name__}, an operator for host solvers; pass "
                f"{name}.as_scipy() to scipy.sparse.linalg, or build {name} from data in memory"
            )
        raise TypeError(
            f"{name} is a {type(a).__name__}; expected a LinearOperator: "
            "operators.from_dense(matrix), operators.from_function(f, like) or one of "
            "funcdl.curvature"
        )


def _solve(a: Array, b: Array) -> Array:
    return jnp.linalg.solve(a.astype(b.dtype), b)


def _solve_psd(a: Array, b: Array) -> Array:
    a = a.astype(b.dtype)
    factor = jax.scipy.linalg.cho_factor(jax.lax.stop_gradient(a), lower=True)

    def solve(_, b):
        return jax.scipy.linalg.cho_solve(factor, b)

    # The equation holds the matrix with its tangents: A is symmetric at this point, but not along
    # every path through it, so symmetric=True would give a wrong derivative.
    matvec = lambda x: jnp.matmul(a, x, precision="highest")
    return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)


def _logdet(a: Array) -> Array:
    return jnp.linalg.slogdet(a.astype(_tree.wide(a.dtype)))[1]


def _shift(a: Array, damping: ArrayLike) -> LinearOperator:
    wide = a.astype(_tree.wide(a.dtype))
    return from_dense(wide + damping * jnp.eye(len(a), dtype=wide.dtype))


_FUNCTION = Action(lambda f, v: f(v))
_MATRIX = Action(lambda a, v: a @ v, lambda a, w: w @ a)
_SQUARE = _MATRIX._replace(solve=_solve, logdet=_logdet, shift=_shift)
_PSD = _SQUARE._replace(solve=_solve_psd)
