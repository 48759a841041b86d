"""Solve by the method that suits the marks of an operator."""

import jax

from funcdl import _tree
from funcdl._typing import Array, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement
from funcdl.operators._solvers.cg import cg
from funcdl.operators._solvers.common import check_system, wide_product
from funcdl.operators._solvers.lsmr import lsmr
from funcdl.operators._solvers.minres import minres


def solve(
    A: LinearOperator,
    b: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 1000,
    precondition: LinearOperator | None = None,
) -> Solution:
    r"""Solve :math:`A x = b` by the best method that A allows.

    That is ``A.solve(b)`` where A has a closed form; otherwise ``cg`` where A is marked psd,
    ``minres`` where it is marked symmetric, and ``lsmr``, which minimizes :math:`\|b - A x\|`,
    where it is neither.

    Args:
        A: Any operator.
        b: A vector like ``A.shape_out``.
        tol: The relative residual at which to stop. A closed form is computed in any case; ``tol``
            only decides whether it counts as converged.
        max_steps: The largest number of steps of an iteration.
        precondition: As in ``cg``, ``minres`` and ``lsmr``; a closed form does not need one.

    Returns:
        The solution, with the true residual; x is in at least float32. Derivatives are NaN where it
        did not converge.

    Raises:
        ValueError: If b is not like ``A.shape_out``, ``tol`` is negative or ``max_steps`` less
            than 1.
        TypeError: If A or ``precondition`` is not a ``LinearOperator``.

    >>> import jax.numpy as jnp
    >>> from funcdl import linalg, operators
    >>> A = operators.toeplitz(jnp.asarray([2.0, -1.0, 0.0]))
    >>> solution = operators.solve(A, jnp.asarray([1.0, 0.0, 1.0]))
    >>> solution.x.round(4).tolist(), solution.converged.item()
    ([1.0, 1.0, 1.0], True)
    """
    system = check_system(A, b, tol, max_steps, precondition, symmetric=False)
    if A.action.solve is not None:
        return _direct(system.a, system.b, system.tol)
    iterate = cg if A.psd else minres if A.symmetric else lsmr
    return iterate(A, b, tol=tol, max_steps=max_steps, precondition=precondition)


@jax.jit
def _direct(a: LinearOperator, b: PyTree, tol: Array) -> Solution:
    x = jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), a.solve(b))
    residual = refinement.relative(_tree.subtract(b, wide_product(a)(x)), b)
    residual = jax.lax.stop_gradient(residual)
    converged = residual <= tol
    x = refinement.revealed(x, x, converged)
    return Solution(x, residual, converged, jax.numpy.int32(0))
