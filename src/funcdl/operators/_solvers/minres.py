"""The method of minimal residuals, for symmetric operators that are not definite."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement as _refine
from funcdl.operators._solvers.common import check_system, implicit


def minres(
    A: LinearOperator,
    b: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 1000,
    precondition: LinearOperator | None = None,
) -> Solution:
    r"""Solve :math:`A x = b` for a symmetric operator, :math:`\min_x \|b - A x\|` in Krylov spaces.

    It stops where the true :math:`\|b - A x\| \le` ``tol`` :math:`\|b\|`, at ``max_steps``, or
    where the rounding of A x would hide what a longer x gains. So it ends where A is singular and b
    not in its range: unconverged, near the least residual, with an x that may be long; ``lsmr``
    finds the shortest. Derivatives as of ``cg``.

    Args:
        A: Symmetric operator, of any signs.
        b: A vector like ``A.shape_out``.
        tol: The relative residual that is enough.
        max_steps: Stop after this many steps.
        precondition: Roughly :math:`|A|^{-1}`, positive definite (on trust); it has no derivative.

    Returns:
        The solution; x has at least float32.

    Raises:
        ValueError: If A is not marked symmetric, b is not like ``A.shape_out``, ``tol`` is negative
            or ``max_steps`` less than 1.
        TypeError: If A or ``precondition`` is no operator.

    Source: Paige and Saunders, "Solution of sparse indefinite systems of linear equations" (1975).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, -2.0])), symmetric=True)
    >>> operators.minres(A, jnp.ones(2)).x.round(4).tolist()
    [1.0, -0.5]
    """
    return _minres(*check_system(A, b, tol, max_steps, precondition, symmetric=True))


@jax.jit
def _minres(a, b, precondition, tol, max_steps) -> Solution:
    return implicit(minres_pass, a, b, precondition, tol, max_steps)


class _State(NamedTuple):
    """Lanczos vectors, and the QR factors of their tridiagonal matrix by rotations."""

    x: PyTree
    kept: PyTree  # the last x whose rounding is small against the residual
    before: PyTree  # the Lanczos vector before, not normalized
    now: PyTree
    rough: PyTree  # M times it
    beta: Array  # its length in the norm of M
    beta_before: Array
    w: PyTree  # the last two directions
    w_before: PyTree
    cosine: Array
    sine: Array
    epsilon: Array  # the entry two above the diagonal
    delta: Array  # the entry above the diagonal, before its rotation
    left: Array  # the residual's length in the norm of M
    size: Array  # of A, from below
    rounding: Array  # of A x, over the residual
    steps: Array


def minres_pass(matvec: Callable, precondition: Callable, r: PyTree, factor, steps) -> _refine.Pass:
    """Run minimal residuals from zero until the residual they carry fell by a factor."""
    rough = precondition(r)
    beta = _tree.sqrt(_tree.dot(r, rough))
    enough, eps = factor * beta, jnp.finfo(beta.dtype).eps
    length = _tree.norm(r) / beta  # of a vector that M measures as 1

    def unfinished(s: _State):
        return (s.left > enough) & (s.steps < steps) & (s.beta > eps * beta) & (s.rounding <= 1)

    def step(s: _State):
        v = _tree.scale(1 / s.beta, s.rough)
        y = matvec(v)
        size = jnp.maximum(s.size, _tree.norm(y) / _tree.norm(v))
        back = jnp.where(s.steps > 0, s.beta / s.beta_before, 0)
        y = _tree.axpy(-back, s.before, y)
        alpha = _tree.dot(v, y)
        y = _tree.axpy(-alpha / s.beta, s.now, y)
        rough = precondition(y)
        beta = jnp.sqrt(jnp.maximum(_tree.dot(y, rough), 0))
        # the last rotation on the new column, and a new one
        above = s.cosine * s.delta + s.sine * alpha
        bar = s.sine * s.delta - s.cosine * alpha
        gamma = jnp.maximum(jnp.hypot(bar, beta), jnp.finfo(beta.dtype).tiny)
        cosine, sine = bar / gamma, beta / gamma
        w = _tree.axpy(-s.epsilon, s.w_before, _tree.axpy(-above, s.w, v))
        w = _tree.scale(1 / gamma, w)
        x = _tree.axpy(cosine * s.left, w, s.x)
        # of a singular A x grows without end, until the rounding of A x is all of the residual
        rounding = eps * size * _tree.norm(x) / (length * s.left)
        kept = _choose(rounding <= 0.05, x, s.kept)
        return _State(
            *(x, kept, s.now, y, rough, beta, s.beta, w, s.w, cosine, sine),
            *(s.sine * beta, -s.cosine * beta, sine * s.left, size, rounding, s.steps + 1),
        )

    zero, none = _tree.scale(0, r), jnp.zeros_like(beta)
    first = _State(
        *(zero, zero, zero, r, rough, beta, jnp.ones_like(beta), zero, zero),
        *(none - 1, none, none, none, beta, none, none, jnp.int32(0)),
    )
    end = jax.lax.while_loop(unfinished, step, first)
    return _refine.Pass(_choose(end.left <= enough, end.x, end.kept), end.steps)


def _choose(which: Array, x: PyTree, y: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), x, y)
