"""Eigenpairs of a symmetric operator by thick-restart Lanczos, all inside one jit.

Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM Journal
on Matrix Analysis 22 (2000).
"""

# Invariant: the rows of the basis V are orthonormal, t = V A Vᵀ on the rows that are filled, and
# `following` is orthogonal to all of them. A restart keeps the best Ritz vectors as rows, which
# leaves t diagonal; the next step's projection on the whole basis refills the coupling, so the
# loop needs no special case for the arrowhead. Reorthogonalization is full, so that rounding does
# not produce copies of an eigenvalue. When the estimated residuals are small, a last cycle
# multiplies the k rows once more and measures the true ones (`verify`). The basis is updated in
# place, since it may be the largest array.

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import check_key, integer, not_negative
from funcdl._typing import Array, ArrayLike, Key, PyTree
from funcdl.operators._core import views as _views
from funcdl.operators._core.build import check_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import EigenPairs
from funcdl.operators._eigen import basis_rows as _basis
from funcdl.operators._eigen.eigsh_derivative import differentiable

Which = Literal["LM", "LA", "SA"]

_SMALL = 2**20  # below, one flat leaf compiles 2.5 times faster than a tree; above, it costs a copy


class _Want(NamedTuple):
    """The static settings of a run."""

    k: int
    which: Which
    tol: float
    basis: int
    max_matvecs: int


class _State(NamedTuple):
    """A basis V of Ritz and Lanczos vectors with the projection ``t`` of A on it."""

    basis: PyTree  # (m, ...); rows from j on are zero
    following: PyTree  # the unit vector that becomes row j
    t: Array  # (m, m); rows and columns from j on are zero
    j: Array
    verify: Array  # whether this cycle measures the residuals of the first k rows
    values: Array  # (m,) Ritz values, the wanted ones first
    rotation: Array  # (m, m) coordinates of the Ritz vectors in the basis, column by column
    residuals: Array  # (m,) residual of each Ritz pair: estimated, or true in the verify cycle
    broke_down: Array  # whether the Krylov space was exhausted in this cycle
    matvecs: Array


def eigsh(
    A: LinearOperator,
    k: int,
    *,
    key: Key[Array, ""],
    tol: float = 1e-3,
    which: Which = "LM",
    max_matvecs: int = 1000,
) -> EigenPairs:
    r"""Compute k eigenpairs of a symmetric operator, :math:`A v_i = \lambda_i v_i`.

    Lanczos with full reorthogonalization on a basis of ``min(max(3 k, 20), n)`` vectors. It stops
    as soon as every wanted pair has :math:`\|A v - \lambda v\| \le` ``tol`` :math:`|\lambda|`; the
    residuals returned are the true ones, measured with k more products. Derivatives of the values
    follow Hellmann and Feynman, those of the vectors take a deflated solve; both are NaN where a
    pair did not converge.

    As with any Krylov method that starts from one vector, copies of a multiple eigenvalue are
    found only through rounding, or where the Krylov space is exhausted (n small, A of low rank).

    Args:
        A: A symmetric operator on vectors with n entries.
        k: The number of pairs, ``1 <= k <= n``.
        key: The random key for the start vector.
        tol: The relative tolerance of each residual; rounding sets a lower limit.
        which: Largest by magnitude ``"LM"``, largest ``"LA"`` or smallest ``"SA"`` algebraically.
        max_matvecs: The largest number of products, or k if that is larger.

    Returns:
        The pairs, in the order of ``which``. Vectors are in at least float32.

    Raises:
        ValueError: If A is not marked symmetric, k is not in 1..n or ``tol`` is negative.
        TypeError: If k is not an integer or the key is not typed.

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, -4.0, 3.0])), symmetric=True)
    >>> operators.eigsh(A, 2, key=jax.random.key(0)).values.round(4).tolist()
    [-4.0, 3.0]
    """
    check_operator(A)
    n, k = A.space_in.size, integer("k", k)
    max_matvecs = integer("max_matvecs", max_matvecs)
    check_key(key)
    not_negative("tol", tol)
    if not A.symmetric:
        raise ValueError("A is not marked symmetric; build it with symmetric=True, or use A.T @ A")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected 1 <= k <= {n}, the dimension of A")
    if which not in ("LM", "LA", "SA"):
        raise ValueError(f"which is {which!r}; expected 'LM', 'LA' or 'SA'")
    want = _Want(k, which, tol, min(max(3 * k, 20), n), max(max_matvecs, k))
    flat = n < _SMALL
    pairs = _solve(want, _views.raveled(A) if flat else A, key)
    if not flat:
        return pairs
    wide = jax.tree.map(lambda x: jnp.zeros(x.shape, _tree.wide(x.dtype)), A.shape_in)
    return pairs._replace(vectors=jax.vmap(_tree.ravel(wide)[1])(pairs.vectors))


@partial(jax.jit, static_argnums=0)
@differentiable
def _solve(want: _Want, a: LinearOperator, key: Key[Array, ""]) -> EigenPairs:
    def unfinished(state: _State):
        return ~(state.verify & (state.j >= want.k))

    def cycle(state: _State):
        def growing(state: _State):
            full = state.j >= jnp.where(state.verify, want.k, want.basis)
            return ~full & (state.verify | ~_stop(want, state))

        return _restart(want, jax.lax.while_loop(growing, lambda s: _step(want, a, key, s), state))

    end = jax.lax.while_loop(unfinished, cycle, _start(want, a, key))
    k = want.k
    return EigenPairs(
        values=end.values[:k],
        vectors=jax.tree.map(lambda b: b[:k], end.basis),
        residuals=end.residuals[:k],
        converged=end.residuals[:k] <= _threshold(want, end.values)[:k],
        matvecs=end.matvecs,
    )


def _start(want: _Want, a: LinearOperator, key: Key[Array, ""]) -> _State:
    m = want.basis
    first = _tree.normalized(_tree.random(key, a.shape_in, jax.random.normal))
    basis = jax.tree.map(lambda v: jnp.zeros((m, *v.shape), v.dtype), first)
    dtype = jnp.result_type(*jax.tree.leaves(first))
    matrix, zeros, zero = jnp.zeros((m, m), dtype), jnp.zeros(m, dtype), jnp.int32(0)
    return _State(
        basis=basis,
        following=first,
        t=matrix,
        j=zero,
        verify=jnp.bool(False),
        values=zeros,
        rotation=matrix,
        residuals=zeros + jnp.inf,
        broke_down=jnp.bool(False),
        matvecs=zero,
    )


def _step(want: _Want, a: LinearOperator, key: Key[Array, ""], state: _State) -> _State:
    """Multiply row j; grow the basis by the remainder or, in the verify cycle, measure it."""
    j, verify, m = state.j, state.verify, want.basis
    # written first and read after: a row that is read before the write costs a copy of the basis
    basis = jax.tree.map(
        lambda b, x: _basis.with_row(b, jnp.where(verify, _basis.row(b, j), x), j),
        state.basis,
        state.following,
    )
    v = jax.tree.map(lambda b: _basis.row(b, j), basis)
    w = jax.tree.map(lambda x, like: x.astype(like.dtype), a @ v, v)
    before = _tree.norm(w)
    theta = jnp.zeros(m, before.dtype).at[j].set(state.values[j])
    h = jnp.where(verify, theta, _tree.project(basis, w))
    w = _tree.subtract(w, _tree.combine(basis, h))

    def orthogonalize(w, h):
        more = _tree.project(basis, w)
        return _tree.subtract(w, _tree.combine(basis, more)), h + more

    # one pass of Gram-Schmidt is enough only where little cancels (Daniel et al., 1976)
    canceled = ~verify & (_tree.norm(w) < 0.7 * before)
    w, h = jax.lax.cond(canceled, orthogonalize, lambda w, h: (w, h), w, h)
    beta = _tree.norm(w)
    tiny = 10 * jnp.finfo(before.dtype).eps * jnp.maximum(before, jnp.abs(state.values).max())
    exhausted = ~verify & (beta <= tiny)

    def restart_at_random(_):
        fresh = _tree.random(
            jax.random.fold_in(key, state.matvecs + 1), a.shape_in, jax.random.normal
        )
        for _ in range(2):
            fresh = _tree.normalized(orthogonalize(fresh, h)[0])
        return fresh

    following = jax.lax.cond(exhausted, restart_at_random, lambda w: _tree.scale(1 / beta, w), w)
    beta = jnp.where(exhausted, 0, beta)
    t = jnp.where(verify, state.t, state.t.at[:, j].set(h).at[j, :].set(h))
    values, rotation = _ritz(want, t, j + 1)
    return _State(
        basis=basis,
        following=following,
        t=t,
        j=j + 1,
        verify=verify,
        values=jnp.where(verify, state.values, values),
        rotation=rotation,
        residuals=jnp.where(verify, state.residuals.at[j].set(beta), jnp.abs(beta * rotation[j])),
        broke_down=state.broke_down | exhausted,
        matvecs=state.matvecs + 1,
    )


def _ritz(want: _Want, t: Array, filled: ArrayLike) -> tuple[Array, Array]:
    """Diagonalize the projection, the wanted pairs first; rows that are not filled come last."""
    sign = {"LM": 0, "LA": -1, "SA": 1}[want.which]
    unfilled = jnp.arange(want.basis) >= filled
    least = sign * (2 * _tree.norm(t) + 1)
    values, rotation = jnp.linalg.eigh(t + jnp.diag(jnp.where(unfilled, least, 0)))
    rank = -jnp.abs(values) if want.which == "LM" else sign * values
    order = jnp.argsort(rank)
    return values[order], rotation[:, order]


def _threshold(want: _Want, values: Array) -> Array:
    """Return the residual allowed for each Ritz pair; it is absolute for eigenvalues near 0."""
    size = jnp.abs(values)
    return jnp.maximum(want.tol * size, 10 * jnp.finfo(values.dtype).eps * size.max())


def _stop(want: _Want, state: _State) -> Array:
    k = want.k
    # the true residual decides in the end, so its estimate keeps a margin for rounding
    small = state.residuals[:k] <= 0.5 * _threshold(want, state.values)[:k]
    enough = (state.j >= k) & (~state.broke_down | (state.j >= want.basis))
    hopeless = (state.matvecs >= want.max_matvecs) | jnp.isnan(state.residuals).any()
    return (enough & small.all()) | hopeless


def _restart(want: _Want, state: _State) -> _State:
    """Keep the best Ritz vectors: k to be verified if it is time to stop, otherwise more."""
    # the verify cycle changes nothing; a cond that skips this would hold two bases
    m, k = want.basis, want.k
    stop = state.verify | _stop(want, state) | (m == k)
    kept = jnp.where(stop, k, min(k + (m - k) // 2, m - 1))
    q = jnp.where(jnp.arange(m) < kept, state.rotation, 0)
    q = jnp.where(state.verify, jnp.eye(m, dtype=q.dtype), q)
    return state._replace(
        basis=jax.tree.map(lambda rows: _basis.rotate(rows, q, state.verify), state.basis),
        t=jnp.diag(jnp.where(jnp.arange(m) < kept, state.values, 0)),
        j=jnp.where(state.verify, state.j, jnp.where(stop, 0, kept)).astype(state.j.dtype),
        verify=stop,
        broke_down=jnp.bool(False),
    )
