"""Roots of segments that propagation cannot invert, by damped Newton steps on diagonal blocks.

Each diagonal block has a step, a step size and a residual of its own. In a triangular map the
blocks settle one after the other, each in the iteration after those that it depends on (Song et
al., 2021), so n iterations suffice where each block alone needs one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._jacobian.parts import Plan, joined, replay, split
from funcdl.density._jacobian.segment_log_det import jacobian_blocks

# Invariant: a block takes a step only if the trial point lowers its merit, the largest residual of
# its rows; otherwise its step size is halved. The merit of a block also changes when a block that
# it depends on moves, and then its step size returns to 1.
# The textbook's Newton step solves with the whole Jacobian and has one step size, so a single
# saturated number would slow down all of them. The block diagonal system is cheaper and, because
# the form is triangular, still exact once the blocks before have settled.
# No absolute tolerance is used: the iteration ends when steps are rounding errors, and a point is a
# root only if its residual, or the error of x that the residual implies, is rounding too. Anything
# else is NaN after a few starting points, so that a wrong inverse is never returned.
# Derivatives are those of the implicit function, so the iteration itself is not differentiated.

# starting points in addition to y itself, the same for every number
_STARTS = (0.0, 0.5, -0.5, 1.5, -1.5, 4.0, -4.0, 16.0, -16.0)
_HALVINGS = 30  # of a step, before its block gives up
_ATTEMPTS = 5  # starting points that are iterated from


class State(NamedTuple):
    """The state of the iteration.

    Attributes:
        x: The point, of shape ``(n,)``.
        residual: y - f(x) at the point before the last step, of shape ``(n,)``.
        size: The fraction of the Newton step that is tried next, of shape ``(n,)``.
        done: Whether each number has settled or given up, of shape ``(n,)``.
        count: The number of iterations.
    """

    x: Array
    residual: Array
    size: Array
    done: Array
    count: Array


def root(plan: Plan, origin: dict, y: Array, outside: dict, start: tuple) -> Array:
    """Find the inputs of one segment that give its outputs.

    Args:
        plan: The plan of the segment.
        origin: The equation that computes each variable.
        y: The outputs of the segment, of shape ``(n,)``.
        outside: The values of the variables that the segment reads from elsewhere.
        start: A pair ``(x, unknown)`` of shape ``(n,)`` each: the inputs as far as they are known,
            and a Boolean constant that marks the unknown ones.

    Returns:
        The inputs, of shape ``(n,)``; NaN if the iteration did not converge. The derivatives are
        those of the implicit function.
    """
    variables = list(outside)
    floats = [at for at, s in enumerate(variables) if s.is_float]

    known, unknown = start

    @jax.custom_jvp
    def solve(y, read, known):
        return _iterate(plan, origin, y, dict(zip(variables, read)), (known, unknown))

    # J dx = dy - df, where df is the change of the outputs by the values read from outside
    @solve.defjvp
    def _(primals, tangents):
        (y, read, known), (dy, dread, _) = primals, tangents
        x = solve(y, read, known)
        values = dict(zip(variables, read))

        def outputs(x, floats_read):
            changed = dict(zip([variables[at] for at in floats], floats_read))
            return _outputs(plan, x, values | changed)

        point, tangent = ([x[at] for at in floats] for x in (read, dread))
        _, df = jax.jvp(outputs, (x, point), (jnp.zeros_like(x), tangent))
        return x, _linear_solve(plan, origin, x, values, dy - df)

    return solve(y, list(outside.values()), jax.lax.stop_gradient(known))


def _outputs(plan: Plan, x: Array, outside: dict) -> Array:
    segment = plan.segment
    return joined(replay(segment, outside, split(x, segment.inputs)), segment.outputs)


def _labels(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return the row that is matched to each column, and the block of each column."""
    rows, block = np.zeros(plan.n, int), np.zeros(plan.n, int)
    for at, (r, c) in enumerate(plan.blocks or []):
        rows[c], block[c] = r, at
    return rows, block


def _direction(plan: Plan, origin: dict, x: Array, outside: dict) -> tuple[Array, Callable]:
    """Return the outputs at a point and the solver that maps a residual to a Newton step."""
    segment = plan.segment
    values = outside | replay(segment, outside, split(x, segment.inputs))
    return joined(values, segment.outputs), jacobian_blocks(plan, values, origin)


def _iterate(plan: Plan, origin: dict, y: Array, outside: dict, start: tuple) -> Array:
    """Run the iteration from the best starting points until one reaches a root; else NaN."""
    known, unknown = start
    rows, block = _labels(plan)
    eps = jnp.finfo(y.dtype).eps
    count = int(block.max()) + 1
    merit = functools.partial(_merit, rows, block, count)

    def residual(x):
        return y - _outputs(plan, x, outside)

    def step(state: State) -> State:
        value, solve = _direction(plan, origin, state.x, outside)
        r = y - value
        size = jnp.where(merit(r) == merit(state.residual), state.size, 1.0)
        move = jnp.where(unknown, solve(r), 0.0)
        trial = state.x + size * move
        is_better = merit(residual(trial)) < merit(r)
        rounding = 8 * eps * jnp.abs(state.x)
        done = (merit(r) == 0) | (jnp.abs(move) <= rounding) | ~unknown
        done = done | (~is_better & (size < 2.0**-_HALVINGS))
        return State(
            x=jnp.where(is_better, trial, state.x),
            residual=r,
            size=jnp.where(is_better, size, size / 2),
            done=done,
            count=state.count + 1,
        )

    def is_running(state: State):
        return ~state.done.all() & (state.count < 100 + 2 * count)

    def attempt(state):
        at, x, _ = state
        start = State(candidates[at], zero, size=zero + 1, done=zero > 1, count=jnp.int32(0))
        x = jax.lax.while_loop(is_running, step, start).x
        return at + 1, x, _is_root(plan, origin, x, y, outside, unknown)

    zero = jnp.zeros_like(y)
    candidates = _starts(merit, residual, jnp.where(unknown, y[rows], known), unknown)
    first = jnp.zeros((), int), zero, jnp.asarray(False)
    _, x, is_root = jax.lax.while_loop(lambda s: ~s[2] & (s[0] < _ATTEMPTS), attempt, first)
    return jnp.where(is_root, x, jnp.nan)


def _merit(rows: np.ndarray, block: np.ndarray, count: int, residual: Array) -> Array:
    """Return the largest residual of the block of each number; ``count`` blocks."""
    r = jnp.abs(residual[rows])
    r = jnp.where(jnp.isfinite(r), r, jnp.inf)
    return r if count == len(rows) else jax.ops.segment_max(r, block, count)[block]


def _starts(merit: Callable, residual: Callable, first: Array, unknown: np.ndarray) -> Array:
    """Rank the starting points: first the best one for each block, then all, the best first."""
    constants = jnp.stack([jnp.where(unknown, c, first) for c in _STARTS])
    points = jnp.concatenate([first[None], constants])
    merits = jax.lax.map(lambda x: merit(residual(x)), points)
    best = jnp.take_along_axis(points, jnp.argmin(merits, axis=0)[None], axis=0)
    return jnp.concatenate([best, points[jnp.argsort(merits.max(1))]])


def _is_root(
    plan: Plan, origin: dict, x: Array, y: Array, outside: dict, unknown: np.ndarray
) -> Array:
    """Tell whether the residual, or the error of x that it implies, is only rounding."""
    value, solve = _direction(plan, origin, x, outside)
    r = y - value
    eps = jnp.finfo(y.dtype).eps
    error = jnp.abs(solve(r))
    scale = jnp.abs(y) + jnp.abs(value)
    is_small = (jnp.abs(r) <= 64 * eps * scale).all()
    is_close = (error <= 64 * eps * (jnp.abs(x) + jnp.abs(x).max() * eps)) | ~jnp.asarray(unknown)
    return jnp.isfinite(x).all() & (is_small | (is_close.all() & jnp.isfinite(r).all()))


def _linear_solve(plan: Plan, origin: dict, x: Array, outside: dict, b: Array) -> Array:
    """Solve J dx = b, by the diagonal blocks if J has no other entries."""
    if plan.separate:
        return _direction(plan, origin, x, outside)[1](b)
    jacobian = jax.jacfwd(lambda x: _outputs(plan, x, outside))(x)
    return jnp.linalg.solve(jacobian, b)
