"""Iterative refinement: passes of a Krylov method until the true residual is small."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, PyTree


class Pass(NamedTuple):
    """What one run of a Krylov method from zero returns.

    Attributes:
        x: The correction.
        steps: How many steps it took.
        size: An estimate of the norm of A, where the stopping rule reads one.
    """

    x: PyTree
    steps: Array
    size: Array | float = 0.0


class State(NamedTuple):
    """Where refinement stands."""

    x: PyTree
    r: PyTree  # the true b - A x
    error: Array  # what is compared with the tolerance
    size: Array
    steps: Array
    falling: Array  # whether the last pass was of use


def refined(
    one_pass: Callable, matvec: Callable, b: PyTree, start: PyTree, error: Callable, limits
) -> State:
    """Add corrections ``A d = r`` until the error meets the tolerance or falls no more.

    A Krylov method carries its residual along, and what it carries drifts from the true one in
    finite precision. Here each pass starts at the true residual and ends at one.

    Args:
        one_pass: ``one_pass(r, factor, steps) -> Pass`` reduces the residual by a factor.
        matvec: Multiplies with A.
        b: The right-hand side.
        start: The zero vector of the form of x.
        error: ``error(x, r, size)``, compared with the tolerance.
        limits: ``(tol, max_steps)``, traced.

    Returns:
        The last state; where a pass made things worse, the one before.
    """
    tol, max_steps = limits

    def unfinished(s: State):
        return (s.error > tol) & (s.steps < max_steps) & s.falling

    def again(s: State):
        d = one_pass(s.r, tol / (2 * s.error), max_steps - s.steps)
        x = _tree.add(s.x, d.x)
        r = _tree.subtract(b, matvec(x))
        size = jnp.maximum(s.size, d.size)
        new = error(x, r, size)
        steps = s.steps + d.steps
        better = ~(new >= s.error)  # NaN is no progress, but it has to be seen
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), (x, r, new), (s.x, s.r, s.error))
        return State(*kept, size, steps, new < s.error / 2)

    zero = jnp.zeros((), _tree.norm(b).dtype)
    first = State(start, b, error(start, b, zero), zero, jnp.int32(0), jnp.bool(True))
    return jax.lax.while_loop(unfinished, again, first)


def relative(r: PyTree, b: PyTree) -> Array:
    """Return ``|r| / |b|``, 0 where both are 0."""
    scale = _tree.norm(b)
    return _tree.norm(r) / jnp.where(scale == 0, 1, scale)


@jax.custom_jvp
def revealed(solution: PyTree, found: PyTree, converged: Array) -> PyTree:
    """Return what was found, with the derivatives of the solution, NaN where none was found."""
    del solution, converged
    return found


@revealed.defjvp
def _revealed_jvp(primals, tangents):
    # the function again, not `found`, which has no derivative: else none of second order follows;
    # a product, for a `where` would turn NaN into 0 in reverse mode
    sound = jnp.where(primals[2], 1, jnp.nan)
    return revealed(*primals), _tree.scale(sound, tangents[0])


def solved(matvec: Callable, b: PyTree, solve: Callable) -> tuple[PyTree, PyTree]:
    """Solve a symmetric system; derivatives of any order come from its equation.

    Args:
        matvec: Multiplies with A.
        b: The right-hand side.
        solve: ``solve(matvec, b) -> (x, facts)``.

    Returns:
        The solution with its derivatives, and the facts without any.
    """
    forms = jax.eval_shape(lambda b: solve(matvec, b)[1], b)
    dtype = jnp.result_type(*jax.tree.leaves(b))
    blank = jax.tree.map(lambda f: jnp.zeros(f.shape, dtype), forms)
    # The facts are unknowns of further equations: an auxiliary output of custom_linear_solve loses
    # its place under vmap of a second derivative, and of a pair jax cannot transpose one half.
    flatten, unflatten = _tree.ravel((b, blank))

    def whole(z):
        x, facts = unflatten(z)
        return flatten((matvec(x), facts))

    def whole_solve(product, z):
        x, facts = solve(lambda v: unflatten(product(flatten((v, blank))))[0], unflatten(z)[0])
        return flatten((x, jax.tree.map(lambda f: f.astype(dtype), facts)))

    # transpose_solve rather than symmetric=True: A is symmetric where it is, not along every path
    z = jax.lax.custom_linear_solve(whole, flatten((b, blank)), whole_solve, whole_solve)
    x, facts = unflatten(z)
    facts = jax.tree.map(lambda f, form: f.astype(form.dtype), facts, forms)
    return x, jax.lax.stop_gradient(facts)
