"""Eigenpairs of a symmetric operator by thick-restart Lanczos, all inside one jit.

Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM Journal
on Matrix Analysis 22 (2000).
"""

# Invariant: the rows of the basis V are orthonormal, t = V A Vᵀ on the rows that are filled, and
# `following` is orthogonal to all of them. A restart keeps the best Ritz vectors as rows, which
# leaves t diagonal; the next step's projection on the whole basis refills the coupling, so the
# loop needs no special case for the arrowhead. Reorthogonalization is full, so that rounding does
# not produce copies of an eigenvalue. The basis is updated in place, since it may be the largest
# array.
#
# A Krylov space holds one vector of each eigenspace, so other copies of a multiple eigenvalue do
# not show in it. When the estimated residuals are small, a search therefore goes on from a random
# vector in the complement, and again as long as the wanted values change (`_is_searched`). A last
# cycle multiplies the k rows once more and measures their true residuals (`verify`).
#
# All of it works on A divided by a power of two near its norm, so that no constant has a unit.

import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import check_key, integer, not_negative
from funcdl._numerics import decomposed
from funcdl._typing import Array, ArrayLike, Key, PyTree
from funcdl.operators._core import views as _views
from funcdl.operators._core.build import check_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import EigenPairs
from funcdl.operators._eigen import basis_rows as _basis
from funcdl.operators._eigen.eigsh_derivative import differentiable
from funcdl.operators._solvers import refinement

Which = Literal["LM", "LA", "SA"]

_SMALL = 2**20  # below, one flat leaf compiles 2.5 times faster than a tree; above, it costs a copy


class _Want(NamedTuple):
    """The static settings of a run."""

    k: int
    which: Which
    tol: float
    n: int
    basis: int
    max_matvecs: int


class _State(NamedTuple):
    """A basis V of Ritz and Lanczos vectors with the projection ``t`` of A on it."""

    unit: Array  # a power of two near the norm of A: t, values and residuals are in this unit
    basis: PyTree  # (m, ...); rows from j on are zero
    following: PyTree  # the unit vector that becomes row j
    t: Array  # (m, m); rows and columns from j on are zero
    j: Array
    verify: Array  # whether this cycle measures the residuals of the first k rows
    values: Array  # (m,) Ritz values, the wanted ones first
    rotation: Array  # (m, m) coordinates of the Ritz vectors in the basis, column by column
    residuals: Array  # (m,) residual of each Ritz pair: estimated, or true in the verify cycle
    broke_down: Array  # whether the Krylov space was exhausted in this cycle
    search: "_Search"
    matvecs: Array


class _Search(NamedTuple):
    """The search for wanted pairs that the Krylov space of the first vector does not contain."""

    before: Array  # (m,) the values when it began; NaN before the first search
    lost: Array  # (m,) the part of A times each row that was left out of the space when it began
    steps: Array  # the number of rows since the random vector
    is_complete: Array  # whether nothing can be missing


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

    A small residual shows that a value is an eigenvalue, not that it is a wanted one. The iteration
    therefore goes on until a larger one would have shown with probability 0.99999, which takes 10
    to 20 products in all. A Krylov space contains one vector of each eigenspace: for k > 1, a
    search for further copies of multiple eigenvalues follows, from a random vector in the
    complement, with as many products again. Only values that differ by less than 1e-4 of the
    largest may still be exchanged for each other.

    Args:
        A: A symmetric operator on vectors with n entries.
        k: The number of pairs, ``1 <= k <= n``.
        key: The random key for the start vector.
        tol: The relative tolerance of each residual; rounding sets a lower limit.
        which: Largest by magnitude ``"LM"``, largest ``"LA"`` or smallest ``"SA"`` algebraically.
        max_matvecs: The largest number of products before the last k.

    Returns:
        The pairs, in the order of ``which``. Vectors are in at least float32. A pair counts as
        converged if its residual is small and the search was completed.

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
    want = _Want(k, which, tol, n, min(max(3 * k, 20), n), max(max_matvecs, k))
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

        return _restart(
            want, a, key, jax.lax.while_loop(growing, lambda s: _step(want, a, key, s), state)
        )

    end = jax.lax.while_loop(unfinished, cycle, _start(want, a, key))
    k = want.k
    small = end.residuals[:k] <= _threshold(want, end.values)[:k]
    return EigenPairs(
        values=end.unit * end.values[:k],
        vectors=jax.tree.map(lambda b: b[:k], end.basis),
        residuals=end.unit * end.residuals[:k],
        converged=small & end.search.is_complete,
        matvecs=end.matvecs,
    )


def _start(want: _Want, a: LinearOperator, key: Key[Array, ""]) -> _State:
    m = want.basis
    first = _tree.normalized(_tree.random(key, a.shape_in, jax.random.normal))
    basis = jax.tree.map(lambda v: jnp.zeros((m, *v.shape), v.dtype), first)
    dtype = jnp.result_type(*jax.tree.leaves(first))
    matrix, zeros, zero = jnp.zeros((m, m), dtype), jnp.zeros(m, dtype), jnp.int32(0)
    search = _Search(before=zeros + jnp.nan, lost=zeros, steps=zero, is_complete=jnp.bool(False))
    return _State(
        unit=jnp.ones((), dtype),
        basis=basis,
        following=first,
        t=matrix,
        j=zero,
        verify=jnp.bool(False),
        values=zeros,
        rotation=matrix,
        residuals=zeros + jnp.inf,
        broke_down=jnp.bool(False),
        search=search,
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
    w, unit = refinement.in_unit(w, state.unit, state.matvecs)
    before = _tree.norm(w)
    theta = jnp.zeros(m, before.dtype).at[j].set(state.values[j])
    h = jnp.where(verify, theta, _tree.project(basis, w))
    w = _tree.subtract(w, _tree.combine(basis, h))
    # one pass of Gram-Schmidt is enough only where little cancels (Daniel et al., 1976)
    canceled = ~verify & (_tree.norm(w) < 0.7 * before)
    w, h = jax.lax.cond(canceled, partial(_again, basis), lambda w, h: (w, h), w, h)
    beta = _tree.norm(w)
    tiny = 10 * jnp.finfo(before.dtype).eps * jnp.maximum(before, jnp.abs(state.values).max())
    exhausted = ~verify & (beta <= tiny)

    following = jax.lax.cond(
        exhausted,
        lambda _: _random_row(a, key, basis, state.matvecs + 1),
        lambda w: _tree.scale(1 / beta, w),
        w,
    )
    beta = jnp.where(exhausted, 0, beta)
    t = jnp.where(verify, state.t, state.t.at[:, j].set(h).at[j, :].set(h))
    values, rotation = _ritz(want, t, j + 1)
    lost = jnp.where(_is_full(want, j + 1), 0, state.search.lost)
    estimated = jnp.hypot(beta * rotation[j], lost @ rotation)
    return _State(
        unit=unit,
        basis=basis,
        following=following,
        t=t,
        j=j + 1,
        verify=verify,
        values=jnp.where(verify, state.values, values),
        rotation=rotation,
        residuals=jnp.where(verify, state.residuals.at[j].set(beta), estimated),
        broke_down=state.broke_down | exhausted,
        search=state.search._replace(steps=state.search.steps + 1),
        matvecs=state.matvecs + 1,
    )


def _again(basis: PyTree, w: PyTree, h: Array) -> tuple[PyTree, Array]:
    """Orthogonalize once more; a remainder that cancels again is rounding noise: it becomes 0."""
    more = _tree.project(basis, w)
    cleaned = _tree.subtract(w, _tree.combine(basis, more))
    is_noise = _tree.norm(cleaned) < 0.5 * _tree.norm(w)
    return _tree.scale(jnp.where(is_noise, 0, 1), cleaned), h + more


def _random_row(a: LinearOperator, key: Key[Array, ""], basis: PyTree, index: Array) -> PyTree:
    """Draw a random unit vector that is orthogonal to the rows of the basis."""
    row = _tree.random(jax.random.fold_in(key, index), a.shape_in, jax.random.normal)
    for _ in range(2):
        row = _tree.subtract(row, _tree.combine(basis, _tree.project(basis, row)))
        row = _tree.normalized(row)
    return row


def _ritz(want: _Want, t: Array, filled: ArrayLike) -> tuple[Array, Array]:
    """Diagonalize the projection, the wanted pairs first; rows that are not filled come last."""
    sign = {"LM": 0, "LA": -1, "SA": 1}[want.which]
    unfilled = jnp.arange(want.basis) >= filled
    least = sign * 2 * _tree.norm(t)
    t = t + jnp.diag(jnp.where(unfilled, least, 0))
    values, rotation = decomposed(jnp.linalg.eigh, t)
    rank = -jnp.abs(values) if want.which == "LM" else sign * values
    order = jnp.argsort(rank)
    return values[order], rotation[:, order]


def _threshold(want: _Want, values: Array) -> Array:
    """Return the residual allowed for each Ritz pair; it is absolute for eigenvalues near 0."""
    size = jnp.abs(values)
    return jnp.maximum(want.tol * size, 10 * jnp.finfo(values.dtype).eps * size.max())


def _stop(want: _Want, state: _State) -> Array:
    # the true residual decides in the end, so its estimate keeps a margin for rounding
    margin = jnp.where(_is_searching(state), 0.75, 0.5)
    small = state.residuals <= margin * _threshold(want, state.values)
    enough = (state.j >= want.k) & (~state.broke_down | (state.j >= want.basis))
    searched = state.broke_down | _is_searched(want, state, small)
    if want.k > 1:
        searched |= ~_is_searching(state)
    found = enough & small[: want.k].all() & searched
    return found | _is_full(want, state.j) | _is_hopeless(want, state)


def _is_hopeless(want: _Want, state: _State) -> Array:
    return (state.matvecs >= want.max_matvecs) | jnp.isnan(state.residuals[: want.k]).any()


def _is_full(want: _Want, j: Array) -> Array:
    """Tell whether the basis spans the whole space."""
    return (want.basis == want.n) & (j >= want.n)


def _is_searching(state: _State) -> Array:
    return ~jnp.isnan(state.search.before[0])


def _is_searched(want: _Want, state: _State, small: Array) -> Array:
    """Tell whether a wanted eigenvalue that the first space missed would have shown by now.

    After s steps from a random vector, the largest Ritz value falls short of the largest eigenvalue
    by more than the fraction ``gap`` of the spectrum's width with a probability of at most
    1.648 sqrt(n) exp(-(2 s - 1) sqrt(gap)) (Kuczyński and Woźniakowski, 1992). Here the gap is that
    between the last wanted value and the largest Ritz value of the complement. Where it is small
    because eigenvalues lie close together, the search must instead converge to that Ritz value,
    and only exclude an eigenvalue that lies a quarter of the width farther out.
    """  # noqa: DOC201
    k, row = want.k, jnp.arange(want.basis)

    def gap(x: Array, edge: Array) -> Array:
        top = jnp.where((row >= k) & (row < state.j), x, -jnp.inf).max()
        width = edge - jnp.where(row < state.j, x, jnp.inf).min()
        return (edge - top) / (1.2 * width)  # a Ritz value lies inside the spectrum

    values, last = state.values, state.values[k - 1]
    ends = {"LA": [(values, last)], "SA": [(-values, -last)]}.get(
        want.which, [(values, jnp.abs(last)), (-values, jnp.abs(last))]
    )
    least = jnp.stack([gap(*end) for end in ends]).min()
    least = jnp.where(small[min(k, want.basis - 1)], jnp.fmax(least, 0.25), least)
    exponent = (2 * state.search.steps - 1) * jnp.sqrt(jnp.maximum(least, 0))
    return (state.j > k) & (exponent >= math.log(1.648 * math.sqrt(want.n) / 1e-5))


def _restart(want: _Want, a: LinearOperator, key: Key[Array, ""], state: _State) -> _State:
    """Keep the best Ritz vectors: k to be verified if it is time to stop, otherwise more."""
    # the verify cycle changes nothing; a cond that skips this would hold two bases
    m, k = want.basis, want.k
    stop, search = _stop(want, state), state.search
    changed = jnp.abs(state.values - search.before) > _threshold(want, state.values)
    is_complete = (k == 1) | _is_full(want, state.j)
    is_complete |= _is_searching(state) & ~changed[:k].any() & ~_is_hopeless(want, state)
    verify = state.verify | (m == k) | (stop & (is_complete | _is_hopeless(want, state)))
    begin = stop & ~verify
    kept = jnp.where(verify, k, jnp.minimum(state.j, min(k + (m - k) // 2, m - 1)))
    q = jnp.where(jnp.arange(m) < kept, state.rotation, 0)
    q = jnp.where(state.verify, jnp.eye(m, dtype=q.dtype), q)
    basis = jax.tree.map(lambda rows: _basis.rotate(rows, q, state.verify), state.basis)
    following = jax.lax.cond(
        begin,
        lambda _: _random_row(a, key, basis, -1 - state.matvecs),
        lambda x: x,
        state.following,
    )
    lost = jnp.where(begin, state.residuals, search.lost @ state.rotation)
    return state._replace(
        basis=basis,
        following=following,
        t=jnp.diag(jnp.where(jnp.arange(m) < kept, state.values, 0)),
        j=jnp.where(state.verify, state.j, jnp.where(verify, 0, kept)).astype(state.j.dtype),
        verify=verify,
        broke_down=jnp.bool(False),
        search=search._replace(
            before=jnp.where(begin, state.values, search.before),
            lost=jnp.where(jnp.arange(m) < kept, lost, 0),
            steps=jnp.where(begin, 0, search.steps),
            is_complete=jnp.where(state.verify, search.is_complete, is_complete),
        ),
    )
