"""What the solvers share: checks, vectors of at least float32, derivatives from the equation."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import at_least, not_negative
from funcdl._numerics import power_of_two
from funcdl._typing import PyTree
from funcdl.operators._core.build import check_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement as _refine


def check_system(a, b, tol, max_steps, precondition, *, symmetric: bool) -> tuple:
    """Refuse what is no system of equations; return it with what is needed as arrays.

    Raises:
        ValueError: If forms do not match, a mark is missing or a limit makes no sense.
        TypeError: If something is no operator, or ``max_steps`` no integer.
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
            _tree.check_like(form, a.shape_in, "the form of precondition", "A.shape_in")
    b = jax.tree.map(lambda x, f: jnp.asarray(x, _tree.wide(f.dtype)), b, a.shape_out)
    return a, b, precondition, jnp.asarray(tol, _tree.norm(b).dtype), jnp.int32(max_steps)


def wide_product(a: LinearOperator) -> Callable:
    """Return ``v -> A v`` between vectors of at least float32."""

    def product(v):
        return jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), a @ v)

    return product


def preconditioner(a: LinearOperator | None) -> Callable:
    """Return the product with a preconditioner, which has no derivative."""
    return wide_product(jax.lax.stop_gradient(a)) if a is not None else lambda v: v


def implicit(
    one_pass: Callable, a: LinearOperator, b: PyTree, precondition, tol, max_steps
) -> Solution:
    """Solve a symmetric system; its derivatives solve the equation that x satisfies.

    Args:
        one_pass: ``one_pass(matvec, precondition, r, factor, steps)``.
        a: The operator.
        b: The right-hand side.
        precondition: An operator, or ``None``.
        tol: The relative residual that is enough.
        max_steps: Stop after this many steps.

    Returns:
        The solution.
    """
    rough, tol = preconditioner(precondition), jax.lax.stop_gradient(tol)
    peaks = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(b)])
    unit = power_of_two(peaks)  # in which squares stay in range
    b = _tree.scale(1 / unit, b)

    def solve(matvec, b):
        end = _refine.refined(
            partial(one_pass, matvec, rough),
            matvec,
            b,
            _tree.zeros(b),
            lambda x, r, size: _refine.relative(r, b),
            (tol, max_steps),
        )
        found = Solution(end.x, end.error, end.error <= tol, end.steps)
        return _tree.scale(jnp.where(found.converged, 1, jnp.nan), end.x), found

    solution, found = _refine.solved(wide_product(a), b, solve)
    x = _refine.revealed(solution, found.x, found.converged)
    return found._replace(x=_tree.scale(unit, x))
