"""Parts that the solvers share: checks, float32 vectors, derivatives from the equation."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import at_least, not_negative
from funcdl._typing import Array, ArrayLike, Matvec, PyTree
from funcdl.operators._core.build import check_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement

Limits = tuple[ArrayLike, ArrayLike]  # tol and max_steps


class System(NamedTuple):
    """A checked system of equations ``A x = b``, with everything as arrays."""

    a: LinearOperator
    b: PyTree  # in at least float32
    precondition: LinearOperator | None
    tol: Array
    max_steps: Array


def check_system(
    a: LinearOperator,
    b: PyTree,
    tol: ArrayLike,
    max_steps: int,
    precondition: LinearOperator | None,
    *,
    symmetric: bool,
) -> System:
    """Check a system of equations and convert its parts to arrays.

    Raises:
        ValueError: If structures do not match, a mark is missing or a limit is out of range.
        TypeError: If an operator is not a ``LinearOperator``, or ``max_steps`` not an integer.
    """  # noqa: DOC201
    check_operator(a)
    if symmetric and not a.symmetric:
        raise ValueError("A is not marked symmetric; build it with symmetric=True, or use lsmr")
    _tree.check_like(b, a.shape_out, "b in A x = b", "A.shape_out")
    not_negative("tol", tol)
    at_least("max_steps", max_steps, 1)
    if precondition is not None:
        check_operator(precondition, "precondition")
        for form in (precondition.shape_in, precondition.shape_out):
            _tree.check_like(form, a.shape_in, "the structure of precondition", "A.shape_in")
    b = jax.tree.map(lambda x, f: jnp.asarray(x, _tree.wide(f.dtype)), b, a.shape_out)
    return System(a, b, precondition, jnp.asarray(tol, _tree.norm(b).dtype), jnp.int32(max_steps))


def wide_product(a: LinearOperator) -> Matvec:
    """Return ``v -> A v`` between vectors in at least float32."""

    def product(v):
        return jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), a @ v)

    return product


def preconditioner(a: LinearOperator | None) -> Matvec:
    """Return the product with a preconditioner; it has no derivative."""
    return wide_product(jax.lax.stop_gradient(a)) if a is not None else lambda v: v


def implicit(one_pass: Callable, system: System) -> Solution:
    """Solve a symmetric system; its derivatives solve the equation that x satisfies.

    Args:
        one_pass: ``one_pass(matvec, precondition, r, factor, steps)``.
        system: The system, from ``check_system``.

    Returns:
        The solution.
    """
    apply_preconditioner = preconditioner(system.precondition)
    tol, max_steps = jax.lax.stop_gradient(system.tol), system.max_steps

    def solve(matvec, b):
        end = refinement.refined(
            partial(one_pass, matvec, apply_preconditioner),
            matvec,
            b,
            _tree.zeros(b),
            lambda x, r, b, size: refinement.relative(r, b),
            (tol, max_steps),
        )
        outcome = Solution(end.x, end.error, end.error <= tol, end.steps)
        return _tree.scale(jnp.where(outcome.converged, 1, jnp.nan), end.x), outcome

    solution, outcome = refinement.solved(wide_product(system.a), system.b, solve)
    return outcome._replace(x=refinement.revealed(solution, outcome.x, outcome.converged))
