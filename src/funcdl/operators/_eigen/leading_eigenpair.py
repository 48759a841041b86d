"""One eigenpair from a start vector that is close: a fixed number of products, no restart."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import at_least
from funcdl._numerics import decomposed
from funcdl._typing import Array, ArrayLike, PyTree
from funcdl.operators._core.build import check_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import EigenPairs
from funcdl.operators._core.views import raveled
from funcdl.operators._eigen import basis_rows as _basis
from funcdl.operators._eigen.eigsh import Which


class _Krylov(NamedTuple):
    """Orthonormal rows that span v, A v, A² v, ..., and their images; unreached rows are zero."""

    basis: PyTree  # (m, ...)
    images: PyTree  # (m, ...), A times each row
    following: PyTree  # the vector that becomes the next row


def leading_eigenpair(
    A: LinearOperator, start: PyTree, *, steps: int = 4, which: Which = "LA", tol: float = 1e-3
) -> EigenPairs:
    r"""Improve a vector to an eigenvector: the best one in a small Krylov space.

    The space is the span of :math:`v, A v, A^2 v, \dots`, which costs ``steps`` products. Use it to
    follow an eigenvalue while the operator changes slowly, for instance along training: start each
    time from the vector found last. ``eigsh`` iterates until it has converged. Derivatives are
    those of the computation.

    Args:
        A: A symmetric operator.
        start: The start vector, a tree like ``A.shape_in``, of any length except 0.
        steps: The number of products; at most n are made.
        which: Largest ``"LA"``, smallest ``"SA"``, or largest by magnitude ``"LM"``.
        tol: The relative tolerance that ``converged`` refers to.

    Returns:
        One pair with its true residual: A has an eigenvalue within this distance of ``values[0]``,
        though not necessarily the wanted one.

    Raises:
        ValueError: If A is not marked symmetric, ``start`` is not like its vectors, ``steps < 1``
            or ``tol`` is negative.
        TypeError: If ``steps`` is not an integer.

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, -4.0, 3.0])), symmetric=True)
    >>> leading_eigenpair(A, jnp.ones(3), steps=3).values.round(4).tolist()
    [3.0]
    """
    check_operator(A)
    if not A.symmetric:
        raise ValueError("A is not marked symmetric; build it with symmetric=True, or use A.T @ A")
    at_least("steps", steps, 1, "product")
    if not tol >= 0:
        raise ValueError(f"tol is {tol}; expected a number >= 0")
    if which not in ("LM", "LA", "SA"):
        raise ValueError(f"which is {which!r}; expected 'LM', 'LA' or 'SA'")
    _tree.check_like(start, A.shape_in, "start", "A.shape_in")
    start = jax.tree.map(jnp.asarray, start)
    wide = jax.tree.map(lambda x, form: x.astype(_tree.wide(form.dtype)), start, A.shape_in)
    return _leading(A, wide, min(steps, A.space_in.size), which, tol)


# The images of the basis are kept next to it, so that the projection of A and the true residual
# need no further products. Every row is orthogonalized twice (one pass of Gram-Schmidt loses digits
# where much cancels). When the Krylov space is exhausted, later rows stay zero; they are recognized
# by their length, and their eigenvalues of the projection are moved behind the wanted end.
@partial(jax.jit, static_argnums=(2, 3))
def _leading(A: LinearOperator, start: PyTree, m: int, which: str, tol: ArrayLike) -> EigenPairs:
    flatten, unflatten = _tree.ravel(start)  # one flat leaf takes fewer operations than a tree
    a, start = raveled(A), flatten(start)
    rows = jax.tree.map(lambda v: jnp.zeros((m, *v.shape), v.dtype), start)
    begin = _Krylov(basis=rows, images=rows, following=_tree.normalized(start))
    basis, images, _ = jax.lax.fori_loop(0, m, partial(_extend, a), begin)
    t = jax.vmap(partial(_tree.project, basis))(images)
    t = (t + t.T) / 2
    empty = jax.vmap(_tree.dot)(basis, basis) == 0  # the Krylov space was exhausted earlier
    sign = {"LM": 0, "LA": -1, "SA": 1}[which]
    last = sign * 2 * _tree.norm(t)
    t = t + jnp.diag(jnp.where(empty, last, 0))
    values, vectors = decomposed(jnp.linalg.eigh, t)
    best = jnp.argmin(-jnp.abs(values) if which == "LM" else sign * values)
    value, y = values[best], vectors[:, best]
    vector = _tree.combine(basis, y)
    residual = _tree.norm(_tree.axpy(-value, vector, _tree.combine(images, y)))
    one = lambda x: x[None]
    return EigenPairs(
        values=one(value),
        vectors=jax.tree.map(one, unflatten(_tree.normalized(vector))),
        residuals=one(residual),
        converged=one(residual <= tol * jnp.abs(value)),
        matvecs=jnp.int32(m),
    )


def _extend(a: LinearOperator, j: Array, state: _Krylov) -> _Krylov:
    """Add a row and its image; the part of the image that is orthogonal to all rows follows."""
    v = state.following
    w = jax.tree.map(lambda x, like: x.astype(like.dtype), a @ v, v)
    basis = jax.tree.map(lambda rows, x: _basis.with_row(rows, x, j), state.basis, v)
    images = jax.tree.map(lambda rows, x: _basis.with_row(rows, x, j), state.images, w)
    size = _tree.norm(w)
    for _ in range(2):
        w = _tree.subtract(w, _tree.combine(basis, _tree.project(basis, w)))
    remainder = _tree.norm(w)
    exhausted = remainder <= 10 * jnp.finfo(remainder.dtype).eps * size
    inverse = jnp.where(exhausted, 0, 1 / jnp.where(exhausted, 1, remainder))
    return _Krylov(basis, images, _tree.scale(inverse, w))
