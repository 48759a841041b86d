"""Iterative refinement: passes of a Krylov method until the true residual is small."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._numerics import custom_jvp, power_of_two
from funcdl._typing import Array, ArrayLike, Matvec, PyTree


class Pass(NamedTuple):
    """The result of one run of a Krylov method from zero.

    Attributes:
        x: The correction.
        steps: The number of steps.
        size: An estimate of the norm of A, where the stopping rule reads one.
    """

    x: PyTree
    steps: ArrayLike
    size: ArrayLike = 0.0


class State(NamedTuple):
    """The state of refinement."""

    x: PyTree
    r: PyTree  # the true b - A x
    error: Array  # compared with the tolerance
    size: Array
    steps: Array
    falling: Array  # whether the last pass reduced the error


def refined(
    one_pass: Callable,
    matvec: Matvec,
    b: PyTree,
    start: PyTree,
    error: Callable,
    limits: tuple[ArrayLike, ArrayLike],
) -> State:
    """Add corrections ``A d = r`` until the error meets the tolerance or stops falling.

    A Krylov method carries its residual along, and in finite precision the carried residual drifts
    from the true one. Here each pass starts at the true residual and ends at one.

    Args:
        one_pass: ``one_pass(r, factor, steps) -> Pass`` reduces the residual by a factor.
        matvec: The product with A.
        b: The right-hand side.
        start: The zero vector with the structure of x.
        error: ``error(x, r, b, size)``, compared with the tolerance; it must not depend on the
            unit of x, r and b.
        limits: ``(tol, max_steps)``, traced.

    Returns:
        The last state, or the one before it if the last pass increased the error.
    """
    tol, max_steps = limits
    # in the unit of b, squares stay in range, whether b is of the problem or of a derivative
    unit = _peak_unit(b)
    b = _tree.scale(1 / unit, b)

    def unfinished(s: State):
        return (s.error > tol) & (s.steps < max_steps) & s.falling

    def again(s: State):
        d = one_pass(s.r, tol / (2 * s.error), max_steps - s.steps)
        x = _tree.add(s.x, d.x)
        r = _tree.subtract(b, matvec(x))
        size = jnp.maximum(s.size, d.size)
        new = error(x, r, b, size)
        steps = s.steps + d.steps
        better = ~(new >= s.error)  # NaN is not better, but it must be reported
        x, r, new_error = jax.tree.map(
            lambda a, b: jnp.where(better, a, b), (x, r, new), (s.x, s.r, s.error)
        )
        return State(x, r, new_error, size, steps, falling=new < s.error / 2)

    zero = jnp.zeros((), _tree.norm(b).dtype)
    first = State(start, b, error(start, b, b, zero), zero, jnp.int32(0), jnp.bool(True))
    end = jax.lax.while_loop(unfinished, again, first)
    return end._replace(x=_tree.scale(unit, end.x), r=_tree.scale(unit, end.r))


def _peak_unit(x: PyTree) -> Array:
    """Return a power of two near the largest entry of a tree."""
    return power_of_two(jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(x)]))


def in_unit(image: PyTree, unit: Array, steps: Array) -> tuple[PyTree, Array]:
    """Divide a product with A by a power of two near the norm of A, which the first product sets.

    In this unit, products of a direction with its image stay in the range of the dtype.

    Args:
        image: The product.
        unit: The unit that was set before.
        steps: The number of products before this one.

    Returns:
        The product in the unit, and the unit.
    """
    unit = jnp.where(steps == 0, _peak_unit(image), unit)
    return _tree.scale(1 / unit, image), unit


def relative(r: PyTree, b: PyTree) -> Array:
    """Return ``|r| / |b|``, 0 where both are 0."""
    scale = _tree.norm(b)
    return _tree.norm(r) / jnp.where(scale == 0, 1, scale)


@custom_jvp
def revealed(solution: PyTree, value: PyTree, converged: Array) -> PyTree:
    """Return ``value`` with the derivatives of ``solution``, or NaN where it did not converge."""
    del solution, converged
    return value


@revealed.defjvp
def _revealed_jvp(primals: tuple, tangents: tuple) -> tuple:
    # The primal output is the function again, not `value`, which has no derivative: otherwise
    # second-order derivatives would be lost. The tangent is a product, since a `where` would turn
    # NaN into 0 in reverse mode.
    sound = jnp.where(primals[2], 1, jnp.nan)
    return revealed(*primals), _tree.scale(sound, tangents[0])


def solved(matvec: Matvec, b: PyTree, solve: Callable) -> tuple[PyTree, PyTree]:
    """Solve a symmetric system; derivatives of any order come from its equation.

    Args:
        matvec: The product with A.
        b: The right-hand side.
        solve: ``solve(matvec, b) -> (x, facts)``.

    Returns:
        The solution with its derivatives, and the facts without derivatives.
    """
    forms = jax.eval_shape(lambda b: solve(matvec, b)[1], b)
    dtype = jnp.result_type(*jax.tree.leaves(b))
    blank = jax.tree.map(lambda f: jnp.zeros(f.shape, dtype), forms)
    # The facts are unknowns of further equations: an auxiliary output of custom_linear_solve loses
    # its batch axis under vmap of a second derivative, and jax cannot transpose one half of a pair.
    flatten, unflatten = _tree.ravel((b, blank))

    def augmented(z):
        x, facts = unflatten(z)
        return flatten((matvec(x), facts))

    def solve_augmented(product, z):
        x, facts = solve(lambda v: unflatten(product(flatten((v, blank))))[0], unflatten(z)[0])
        return flatten((x, jax.tree.map(lambda f: f.astype(dtype), facts)))

    # transpose_solve rather than symmetric=True: A is symmetric here, but not along every path
    # through this point
    z = jax.lax.custom_linear_solve(
        augmented, flatten((b, blank)), solve_augmented, solve_augmented
    )
    x, facts = unflatten(z)
    facts = jax.tree.map(lambda f, form: f.astype(form.dtype), facts, forms)
    return x, jax.lax.stop_gradient(facts)
