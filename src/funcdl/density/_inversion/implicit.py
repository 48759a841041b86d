"""The inputs of a segment as an implicit function of its outputs, with its derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcdl._numerics import custom_jvp, no_tangent
from funcdl._typing import Array
from funcdl.density._jacobian.parts import Plan, joined, replay, split
from funcdl.density._jacobian.segment_log_det import jacobian_blocks

# find(y, values of the variables from outside, known inputs) -> (x, facts about it)
Find = Callable[[Array, dict, Array], tuple[Array, Any]]


def implicit(
    plan: Plan, origin: dict, find: Find, y: Array, outside: dict, known: Array
) -> tuple[Array, Any]:
    """Find the inputs of a segment; its result has the derivatives of the equation.

    Args:
        plan: The plan of the segment.
        origin: The equation that computes each variable.
        find: The search.
        y: The outputs of the segment, of shape ``(n,)``.
        outside: The values of the variables that the segment reads from elsewhere.
        known: The inputs of the segment as far as they are known, of shape ``(n,)``.

    Returns:
        The result of the search.
    """
    variables = list(outside)
    floats = [at for at, s in enumerate(variables) if s.is_float]

    @custom_jvp
    def solve(y, read, known):
        return find(y, dict(zip(variables, read)), known)

    # J dx = dy - df, where df is the change of the outputs by the values read from outside
    @solve.defjvp
    def _(primals, tangents):
        (y, read, known), (dy, dread, _) = primals, tangents
        x, facts = solve(y, read, known)
        values = dict(zip(variables, read))

        def changed_outputs(x, floats_read):
            changed = dict(zip([variables[at] for at in floats], floats_read))
            return outputs(plan, x, values | changed)

        point, tangent = ([x[at] for at in floats] for x in (read, dread))
        _, df = jax.jvp(changed_outputs, (x, point), (jnp.zeros_like(x), tangent))
        dx = _linear_solve(plan, origin, x, values, dy - df)
        return (x, facts), (dx, jax.tree.map(no_tangent, facts))

    return solve(y, list(outside.values()), jax.lax.stop_gradient(known))


def outputs(plan: Plan, x: Array, outside: dict) -> Array:
    """Evaluate a segment at the inputs x, joined."""
    segment = plan.segment
    return joined(replay(segment, outside, split(x, segment.inputs)), segment.outputs)


def direction(plan: Plan, origin: dict, x: Array, outside: dict) -> tuple[Array, Callable]:
    """Return the outputs at a point and the solver that maps a residual to a Newton step."""
    segment = plan.segment
    values = outside | replay(segment, outside, split(x, segment.inputs))
    return joined(values, segment.outputs), jacobian_blocks(plan, values, origin)


def _linear_solve(plan: Plan, origin: dict, x: Array, outside: dict, b: Array) -> Array:
    """Solve J dx = b, by the diagonal blocks if J has no other entries."""
    if plan.separate:
        return direction(plan, origin, x, outside)[1](b)
    jacobian = jax.jacfwd(lambda x: outputs(plan, x, outside))(x)
    return jnp.linalg.solve(jacobian, b)
