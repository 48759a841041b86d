"""The method of minimal residuals, for symmetric operators that are not definite."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, ArrayLike, Matvec, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement
from funcdl.operators._solvers.common import System, check_system, implicit


def minres(
    A: LinearOperator,
    b: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 1000,
    precondition: LinearOperator | None = None,
) -> Solution:
    r"""Solve :math:`A x = b` for a symmetric operator, :math:`\min_x \|b - A x\|` in Krylov spaces.

    It stops where the true :math:`\|b - A x\| \le` ``tol`` :math:`\|b\|`, after ``max_steps``, or
    where the rounding error of A x would hide the gain of a longer x. The last happens where A is
    singular and b is not in its range: the result is not converged, near the least residual, and x
    may be long; ``lsmr`` finds the shortest minimizer. Derivatives are those of ``cg``.

    Args:
        A: A symmetric operator with eigenvalues of any sign.
        b: A vector like ``A.shape_out``.
        tol: The relative residual at which to stop.
        max_steps: The largest number of steps.
        precondition: An approximation of :math:`|A|^{-1}`, positive definite (not checked); it has
            no derivative.

    Returns:
        The solution; x is in at least float32.

    Raises:
        ValueError: If A is not marked symmetric, b is not like ``A.shape_out``, ``tol`` is negative
            or ``max_steps`` less than 1.
        TypeError: If A or ``precondition`` is not a ``LinearOperator``.

    Source: Paige and Saunders, "Solution of sparse indefinite systems of linear equations" (1975).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, -2.0])), symmetric=True)
    >>> operators.minres(A, jnp.ones(2)).x.round(4).tolist()
    [1.0, -0.5]
    """
    return _minres(check_system(A, b, tol, max_steps, precondition, symmetric=True))


@jax.jit
def _minres(system: System) -> Solution:
    return implicit(minres_pass, system)


class _State(NamedTuple):
    """Lanczos vectors, and the QR factors of their tridiagonal matrix by rotations."""

    x: PyTree
    accurate: PyTree  # the last x for which the rounding error is small against the residual
    previous: PyTree  # the previous Lanczos vector, not normalized
    current: PyTree  # the current Lanczos vector, not normalized
    preconditioned: PyTree  # M times the current vector
    beta: Array  # length of the current vector in the norm of M
    beta_before: Array
    largest: Array  # largest entry of the tridiagonal matrix
    w: PyTree  # the last two search directions
    w_before: PyTree
    cosine: Array
    sine: Array
    epsilon: Array  # the entry two above the diagonal
    delta: Array  # the entry above the diagonal, before its rotation
    residual: Array  # length of the residual in the norm of M
    size: Array  # lower bound of the norm of A
    rounding: Array  # rounding error of A x, relative to the residual
    unit: Array  # x and A are in this unit
    steps: Array


# Invariant: after k steps, the Lanczos vectors span the k-th Krylov space of M A, the rotations
# have triangularized their tridiagonal matrix, and x minimizes the residual (in the norm of M) over
# that space. Only the last two columns of the factors are kept, so memory does not grow with k.
# Unlike the textbook's method, it stops where the rounding error of A x reaches the residual, and
# returns the last x that was accurate: for a singular A, x grows without bound until this error is
# all of the residual. The rule is a ratio of norms that are estimated on the way, so it does not
# depend on units. The carried residual drifts from the true one; `refined` therefore runs several
# passes, each from the true residual.
def minres_pass(
    matvec: Matvec, precondition: Matvec, r: PyTree, factor: Array, steps: ArrayLike
) -> refinement.Pass:
    """Run minimal residuals from zero until the carried residual has fallen by a factor."""
    preconditioned = precondition(r)
    beta = _tree.sqrt(_tree.dot(r, preconditioned))
    enough, eps = factor * beta, jnp.finfo(beta.dtype).eps
    length = _tree.norm(r) / beta  # of a vector whose norm in M is 1

    def unfinished(s: _State):
        is_exhausted = s.beta <= eps * s.largest
        return (s.residual > enough) & (s.steps < steps) & ~is_exhausted & (s.rounding <= 1)

    def step(s: _State):
        return _step(matvec, precondition, length, s)

    end = jax.lax.while_loop(unfinished, step, _start(r, preconditioned, beta))
    x = _choose(end.residual <= enough, end.x, end.accurate)
    return refinement.Pass(_tree.scale(1 / end.unit, x), end.steps)


def _start(r: PyTree, preconditioned: PyTree, beta: Array) -> _State:
    origin, zero = _tree.scale(0, r), jnp.zeros_like(beta)
    return _State(
        x=origin,
        accurate=origin,
        previous=origin,
        current=r,
        preconditioned=preconditioned,
        beta=beta,
        beta_before=jnp.ones_like(beta),
        largest=zero,
        w=origin,
        w_before=origin,
        cosine=zero - 1,
        sine=zero,
        epsilon=zero,
        delta=zero,
        residual=beta,
        size=zero,
        rounding=zero,
        unit=zero + 1,
        steps=jnp.int32(0),
    )


def _step(matvec: Matvec, precondition: Matvec, length: Array, s: _State) -> _State:
    v = _tree.scale(1 / s.beta, s.preconditioned)
    y, unit = refinement.in_unit(matvec(v), s.unit, s.steps)
    size = jnp.maximum(s.size, _tree.norm(y) / _tree.norm(v))
    y = _tree.axpy(-jnp.where(s.steps > 0, s.beta / s.beta_before, 0), s.previous, y)
    alpha = _tree.dot(v, y)
    y = _tree.axpy(-alpha / s.beta, s.current, y)
    preconditioned = precondition(y)
    beta = jnp.sqrt(jnp.maximum(_tree.dot(y, preconditioned), 0))
    # apply the last rotation to the new column, then compute a new one
    above = s.cosine * s.delta + s.sine * alpha
    bar = s.sine * s.delta - s.cosine * alpha
    gamma = jnp.maximum(jnp.hypot(bar, beta), jnp.finfo(beta.dtype).tiny)
    cosine, sine = bar / gamma, beta / gamma
    w = _tree.axpy(-s.epsilon, s.w_before, _tree.axpy(-above, s.w, v))
    w = _tree.scale(1 / gamma, w)
    x = _tree.axpy(cosine * s.residual, w, s.x)
    rounding = jnp.finfo(beta.dtype).eps * size * _tree.norm(x) / (length * s.residual)
    return _State(
        x=x,
        accurate=_choose(rounding <= 0.05, x, s.accurate),
        previous=s.current,
        current=y,
        preconditioned=preconditioned,
        beta=beta,
        beta_before=s.beta,
        largest=jnp.maximum(s.largest, jnp.maximum(jnp.abs(alpha), beta)),
        w=w,
        w_before=s.w,
        cosine=cosine,
        sine=sine,
        epsilon=s.sine * beta,
        delta=-s.cosine * beta,
        residual=sine * s.residual,
        size=size,
        rounding=rounding,
        unit=unit,
        steps=s.steps + 1,
    )


def _choose(which: Array, x: PyTree, y: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), x, y)
