"""Conjugate gradients for positive definite operators."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, ArrayLike, Matvec, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement
from funcdl.operators._solvers.common import System, check_system, implicit


def cg(
    A: LinearOperator,
    b: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 1000,
    precondition: LinearOperator | None = None,
) -> Solution:
    r"""Solve :math:`A x = b` for a positive definite operator by conjugate gradients.

    It stops where the true :math:`\|b - A x\| \le` ``tol`` :math:`\|b\|`, after ``max_steps``, or
    where a direction with :math:`p^\top A p \le 0` shows that A is not positive definite; in the
    last two cases ``converged`` is false. Derivatives of any order, in b and in the operands of A,
    come from the equation; they are NaN where the solution or their own solve did not converge.

    Args:
        A: A symmetric operator, positive definite.
        b: A vector like ``A.shape_out``.
        tol: The relative residual at which to stop.
        max_steps: The largest number of steps.
        precondition: An approximation of :math:`A^{-1}`, positive definite (not checked); it
            changes the number of steps, not the solution, and has no derivative.

    Returns:
        The solution; x is in at least float32.

    Raises:
        ValueError: If A is not marked symmetric, b is not like ``A.shape_out``, ``tol`` is negative
            or ``max_steps`` less than 1.
        TypeError: If A or ``precondition`` is not a ``LinearOperator``.

    Source: Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems"
    (1952).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, 2.0, 4.0])), psd=True)
    >>> operators.cg(A, jnp.ones(3)).x.round(4).tolist()
    [1.0, 0.5, 0.25]
    """
    return _cg(check_system(A, b, tol, max_steps, precondition, symmetric=True))


@jax.jit
def _cg(system: System) -> Solution:
    return implicit(cg_pass, system)


class _State(NamedTuple):
    x: PyTree
    r: PyTree
    p: PyTree
    rz: Array  # r . M r
    length: Array  # |r|
    unit: Array  # x and A are in this unit
    steps: Array
    definite: Array


def cg_pass(
    matvec: Matvec, precondition: Matvec, r: PyTree, factor: Array, steps: ArrayLike
) -> refinement.Pass:
    """Run conjugate gradients from zero until the carried residual has fallen by a factor."""
    enough = factor * _tree.norm(r)

    def unfinished(s: _State):
        return (s.length > enough) & (s.steps < steps) & s.definite

    def step(s: _State):
        image, unit = refinement.in_unit(matvec(s.p), s.unit, s.steps)
        curvature = _tree.dot(s.p, image)
        definite = curvature > 0
        alpha = jnp.where(definite, s.rz / jnp.where(definite, curvature, 1), 0)
        x, r = _tree.axpy(alpha, s.p, s.x), _tree.axpy(-alpha, image, s.r)
        z = precondition(r)
        rz = _tree.dot(r, z)
        return _State(
            x=x,
            r=r,
            p=_tree.axpy(rz / s.rz, s.p, z),
            rz=rz,
            length=_tree.norm(r),
            unit=unit,
            steps=s.steps + 1,
            definite=definite & (rz > 0),
        )

    z = precondition(r)
    first = _State(
        x=_tree.scale(0, r),
        r=r,
        p=z,
        rz=_tree.dot(r, z),
        length=_tree.norm(r),
        unit=jnp.ones_like(enough),
        steps=jnp.int32(0),
        definite=jnp.bool(True),
    )
    end = jax.lax.while_loop(unfinished, step, first)
    return refinement.Pass(_tree.scale(1 / end.unit, end.x), end.steps)
