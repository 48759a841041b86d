r"""The root of what propagation cannot invert: damped Newton steps by the blocks of the Jacobian.

Each block of the block triangular form has a step, a size of step and a residual of its own. In a
triangular map the blocks settle one after the other, each in the iteration after those that it
depends on (Song et al., 2021), so n iterations suffice where each block alone needs one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._jacobian.parts import Plan, joined, replay, split
from funcdl.density._jacobian.segment_log_det import jacobian_blocks

# starting points, the same for every number, besides y itself
_STARTS = (0.0, 0.5, -0.5, 1.5, -1.5, 4.0, -4.0, 16.0, -16.0)
_HALVINGS = 30
_ATTEMPTS = 5


class State(NamedTuple):
    """Of the iteration.

    Attributes:
        x: (n,) The point.
        residual: (n,) y - f(x), of the point before the last step.
        size: (n,) The part of the Newton step that is tried.
        done: (n,) Whether the residual is rounding.
        count: Iterations.
    """

    x: Array
    residual: Array
    size: Array
    done: Array
    count: Array


def root(plan: Plan, origin: dict, y: Array, outside: dict, start: tuple) -> Array:
    """Solve the equations of one segment.

    Args:
        plan: Of the segment.
        origin: The equation that computes each variable.
        y: (n,) Its outputs.
        outside: Values of the variables that its equations read from elsewhere.
        start: ``(x, unknown)``, (n,) each: what is known of the inputs, and a Boolean constant
            that says what is not.

    Returns:
        (n,) Its inputs; NaN where the iteration did not converge. Derivatives are those of the
        implicit function.
    """
    variables = list(outside)
    free = [at for at, s in enumerate(variables) if s.is_float]

    known, unknown = start

    @jax.custom_jvp
    def solve(y, given, known):
        return _iterate(plan, origin, y, dict(zip(variables, given)), (known, unknown))

    @solve.defjvp
    def _(primals, tangents):
        (y, given, known), (dy, dgiven, _) = primals, tangents
        x = solve(y, given, known)
        values = dict(zip(variables, given))

        def outputs(x, chosen):
            return _outputs(plan, x, values | dict(zip([variables[at] for at in free], chosen)))

        at, along = ([x[at] for at in free] for x in (given, dgiven))
        _, moved = jax.jvp(outputs, (x, at), (jnp.zeros_like(x), along))
        return x, _linear_solve(plan, origin, x, values, dy - moved)

    return solve(y, list(outside.values()), jax.lax.stop_gradient(known))


def _outputs(plan: Plan, x: Array, outside: dict) -> Array:
    segment = plan.segment
    return joined(replay(segment, outside, split(x, segment.inputs)), segment.outputs)


def _labels(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The row matched to each column, and the block of each column."""
    rows, block = np.zeros(plan.n, int), np.zeros(plan.n, int)
    for at, (r, c) in enumerate(plan.blocks):
        rows[c], block[c] = r, at
    return rows, block


def _direction(plan: Plan, origin: dict, x: Array, outside: dict) -> tuple[Array, Callable]:
    """The residual at a point, and the map from it to a Newton step, block by block."""
    segment = plan.segment
    values = outside | replay(segment, outside, split(x, segment.inputs))
    return joined(values, segment.outputs), jacobian_blocks(plan, values, origin)


def _iterate(plan: Plan, origin: dict, y: Array, outside: dict, start: tuple) -> Array:
    known, unknown = start
    rows, block = _labels(plan)
    eps = jnp.finfo(y.dtype).eps
    count = int(block.max()) + 1
    alone = count == plan.n

    def merit(residual):
        """The largest residual of each number's block."""
        r = jnp.abs(residual[rows])
        r = jnp.where(jnp.isfinite(r), r, jnp.inf)
        return r if alone else jax.ops.segment_max(r, block, count)[block]

    def residual(x):
        return y - _outputs(plan, x, outside)

    def step(state: State) -> State:
        value, solve = _direction(plan, origin, state.x, outside)
        r = y - value
        size = jnp.where(merit(r) == merit(state.residual), state.size, 1.0)
        move = jnp.where(unknown, solve(r), 0.0)
        trial = state.x + size * move
        better = merit(residual(trial)) < merit(r)
        x = jnp.where(better, trial, state.x)
        rounding = 8 * eps * jnp.abs(state.x)
        done = (merit(r) == 0) | (jnp.abs(move) <= rounding) | ~unknown
        done = done | (~better & (size < 2.0**-_HALVINGS))
        return State(x, r, jnp.where(better, size, size / 2), done, state.count + 1)

    def go(state: State):
        return ~state.done.all() & (state.count < 100 + 2 * count)

    def attempt(state):
        at, x, _ = state
        start = State(candidates[at], zero - 1, zero + 1, zero > 1, jnp.zeros((), int))
        x = jax.lax.while_loop(go, step, start).x
        return at + 1, x, _is_root(plan, origin, x, y, outside, unknown)

    zero = jnp.zeros_like(y)
    candidates = _starts(merit, residual, jnp.where(unknown, y[rows], known), unknown)
    first = jnp.zeros((), int), zero, jnp.asarray(False)
    _, x, found = jax.lax.while_loop(lambda s: ~s[2] & (s[0] < _ATTEMPTS), attempt, first)
    return jnp.where(found, x, jnp.nan)


def _starts(merit: Callable, residual: Callable, first: Array, unknown: np.ndarray) -> Array:
    """Starting points, the most promising first: the best of all for each block, then each."""
    constants = jnp.stack([jnp.where(unknown, c, first) for c in _STARTS])
    points = jnp.concatenate([first[None], constants])
    found = jax.lax.map(lambda x: merit(residual(x)), points)
    best = jnp.take_along_axis(points, jnp.argmin(found, axis=0)[None], axis=0)
    return jnp.concatenate([best, points[jnp.argsort(found.max(1))]])


def _is_root(plan, origin, x, y, outside, unknown) -> Array:
    """Whether the residual, or the error of x that it stands for, is rounding."""
    value, solve = _direction(plan, origin, x, outside)
    r = y - value
    eps = jnp.finfo(y.dtype).eps
    error = jnp.abs(solve(r))
    scale = jnp.abs(y) + jnp.abs(value)
    small = (jnp.abs(r) <= 64 * eps * scale).all()
    close = (error <= 64 * eps * (jnp.abs(x) + jnp.abs(x).max() * eps)) | ~jnp.asarray(unknown)
    return jnp.isfinite(x).all() & (small | (close.all() & jnp.isfinite(r).all()))


def _linear_solve(plan: Plan, origin: dict, x: Array, outside: dict, b: Array) -> Array:
    """Solve J dx = b: exactly by the blocks where nothing couples them."""
    if plan.separate:
        return _direction(plan, origin, x, outside)[1](b)
    jacobian = jax.jacfwd(lambda x: _outputs(plan, x, outside))(x)
    return jnp.linalg.solve(jacobian, b)
