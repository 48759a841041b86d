"""Roots of segments that propagation cannot invert, by damped Newton steps on diagonal blocks.

Each diagonal block has a step, a step size and a residual of its own. In a triangular map the
blocks settle one after the other, each in the iteration after those that it depends on (Song et
al., 2021), so n iterations suffice where each block alone needs one.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._inversion.implicit import direction, implicit, outputs
from funcdl.density._inversion.order import Order, order
from funcdl.density._jacobian.parts import Plan, joined, replay, split

# Invariant: the bracket of a number that is a block by itself holds two points where its residual
# has opposite signs, so a root lies between them as long as the function is continuous. A trial
# point outside of the bracket, or a step that does not halve the residual, is replaced by its
# middle, so that no number can be stuck (Dekker, 1969). The other blocks, and numbers without a
# bracket, take a step only if it lowers their merit, the largest residual of their rows; otherwise
# the step size is halved. When a block moves, the blocks that depend on it start again with full
# steps and without a bracket.
# The textbook's Newton step solves with the whole Jacobian and has one step size, so a single
# saturated number would slow down all of them. The block diagonal system is cheaper and, because
# the form is triangular, still exact once the blocks before have settled.
# No absolute tolerance is used: the iteration ends when steps are rounding errors, and a point is a
# root only if its residual is explained by rounding errors of the values inside the segment. Every
# number is judged by itself: a number without a root is NaN together with those that share
# inputs with it, and a number that has settled keeps its value while others try another start.
# Derivatives are those of the implicit function, so the iteration itself is not differentiated.

# starting points in addition to y itself, the same for every number
_STARTS = (0.0, 0.5, -0.5, 1.5, -1.5, 4.0, -4.0, 16.0, -16.0)
_HALVINGS = 30  # of a step, before its block gives up
_ATTEMPTS = 5  # starting points that are iterated from
_SAMPLES = 4  # random signs of rounding errors


class State(NamedTuple):
    """The state of the iteration.

    Attributes:
        x: The point, of shape ``(n,)``.
        size: The fraction of the Newton step that is tried next, of shape ``(n,)``.
        above: A point where the residual of a number is positive; NaN if none is known.
        below: A point where it is negative; NaN if none is known.
        is_slow: Whether the last step of a number did not halve its residual.
        done: Whether each number has settled or given up, of shape ``(n,)``.
        count: The number of iterations.
    """

    x: Array
    size: Array
    above: Array
    below: Array
    is_slow: Array
    done: Array
    count: Array


class Problem(NamedTuple):
    """The equation ``f(x) = y`` of a segment.

    Attributes:
        plan: The plan of the segment.
        origin: The equation that computes each variable.
        y: The outputs, of shape ``(n,)``.
        outside: The values of the variables that the segment reads from elsewhere.
        unknown: A constant mask of the numbers that are solved for.
        order: How the numbers depend on each other.
    """

    plan: Plan
    origin: dict
    y: Array
    outside: dict
    unknown: np.ndarray
    order: Order

    def residual(self, x: Array) -> Array:
        """Return y - f(x)."""
        return self.y - outputs(self.plan, x, self.outside)

    def merit(self, residual: Array) -> Array:
        """Return the largest magnitude of a residual in the block of each number."""
        block = self.order.block
        count = int(block.max()) + 1
        r = jnp.abs(residual[self.order.rows])
        r = jnp.where(jnp.isfinite(r), r, jnp.inf)
        return r if count == len(block) else jax.ops.segment_max(r, block, count)[block]


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
        The inputs, of shape ``(n,)``. A number for which the iteration did not converge is NaN,
        and so are those connected with it. The derivatives are those of the implicit function.
    """
    known, unknown = start

    def find(y, outside, known):
        return _iterate(Problem(plan, origin, y, outside, unknown, order(plan)), known), ()

    return implicit(plan, origin, find, y, outside, known)[0]


def _iterate(problem: Problem, known: Array) -> Array:
    """Run the iteration from the best starting points until every number is a root; else NaN."""
    unknown, order = problem.unknown, problem.order
    first = jnp.where(unknown, problem.y[order.rows], known)
    candidates, ends = _starts(problem, first)
    # a number near 0 settles by halving its bracket, one level after the other
    most = 100 + 2 * (int(order.block.max()) + 1) + 60 * min(int(order.level.max()), 16)

    def is_running(state: State):
        return ~state.done.all() & (state.count < most)

    def attempt(state):
        at, x, is_root = state
        start = jnp.where(is_root, x, candidates[at])
        # the bracket of the starting points may enclose a pole, so only the first attempt has it
        bracket = [jnp.where(at == 0, end, jnp.nan) for end in ends]
        x = jax.lax.while_loop(is_running, partial(_step, problem), _initial(start, bracket)).x
        return at + 1, x, _is_root(problem, x)

    none = jnp.zeros((), int), jnp.zeros_like(problem.y), jnp.zeros(problem.y.shape, bool)
    _, x, is_root = jax.lax.while_loop(lambda s: ~s[2].all() & (s[0] < _ATTEMPTS), attempt, none)
    count = int(order.component.max()) + 1
    failures = jax.ops.segment_sum(jnp.asarray(~is_root, int), order.component, count)
    return jnp.where(failures[order.component] == 0, x, jnp.nan)


def _step(problem: Problem, state: State) -> State:
    """Try one step of every number, by Newton's method or to the middle of its bracket."""
    unknown, order = problem.unknown, problem.order
    eps = jnp.finfo(problem.y.dtype).eps
    x = state.x
    value, solve = direction(problem.plan, problem.origin, x, problem.outside)
    r = problem.y - value
    own = r[order.rows]
    above, below = _ends(state, x, own)
    low, high = jnp.minimum(above, below), jnp.maximum(above, below)
    is_held = jnp.isfinite(low) & jnp.isfinite(high) & order.is_single
    move = jnp.where(unknown, solve(r), 0.0)
    trial = x + state.size * move
    is_inside = (trial > low) & (trial < high)
    trial = jnp.where(is_held & (~is_inside | state.is_slow), low / 2 + high / 2, trial)
    # a step of 0 from a residual that is not 0 is an underflow
    is_small = (move != 0) & (jnp.abs(move) <= 8 * eps * jnp.abs(x))
    has_settled = (own == 0) | is_small | ~jnp.asarray(unknown)
    has_settled |= is_held & (high - low <= 4 * eps * jnp.maximum(jnp.abs(low), jnp.abs(high)))
    # a number that has settled stays, or the numbers that depend on it would never settle
    trial = jnp.where(has_settled, x, trial)
    after = problem.residual(trial)
    is_better = problem.merit(after) < problem.merit(r)
    accepted = is_better | (is_held & jnp.isfinite(after[order.rows]))
    if problem.plan.separate:  # a residual at the trial point depends on no other number
        above, below = _ends(State(x, x, above, below, x, x, x), trial, after[order.rows])
    has_given_up = ~accepted & (state.size < 2.0**-_HALVINGS)
    first = jnp.where(accepted & (trial != x), order.level, np.iinfo(np.int32).max).min()
    is_fresh = order.level > first  # a number that it depends on has moved
    return State(
        x=jnp.where(accepted, trial, x),
        size=jnp.where(accepted | is_fresh, 1.0, state.size / 2),
        above=jnp.where(is_fresh, jnp.nan, above),
        below=jnp.where(is_fresh, jnp.nan, below),
        is_slow=jnp.abs(after[order.rows]) > 0.5 * jnp.abs(own),
        done=has_settled | has_given_up,
        count=state.count + 1,
    )


def _ends(state: State, x: Array, residual: Array) -> tuple[Array, Array]:
    """Replace an end of each bracket by a point with the same sign of the residual."""
    above = jnp.where(residual > 0, x, state.above)
    return above, jnp.where(residual < 0, x, state.below)


def _initial(x: Array, bracket: list) -> State:
    """Return the state before the first iteration, which tries full steps."""
    return State(
        x=x,
        size=jnp.ones_like(x),
        above=bracket[0],
        below=bracket[1],
        is_slow=jnp.zeros(x.shape, bool),
        done=jnp.zeros(x.shape, bool),
        count=jnp.zeros((), int),
    )


def _starts(problem: Problem, first: Array) -> tuple[Array, list]:
    """Rank the starting points: first the best one for each block, then all, the best first.

    Args:
        problem: The equation.
        first: The point with y in place of the unknown numbers.

    Returns:
        The points, and the ends of the brackets that they give: NaN if the residual of a number
        depends on other numbers, or has the same sign at all points.
    """
    constants = jnp.stack([jnp.where(problem.unknown, c, first) for c in _STARTS])
    points = jnp.concatenate([first[None], constants])
    residuals = jax.lax.map(problem.residual, points)
    merits = jax.vmap(problem.merit)(residuals)
    best = jnp.take_along_axis(points, jnp.argmin(merits, axis=0)[None], axis=0)
    # a constant may be singular for all numbers at once, as for a matrix; y is not
    candidates = jnp.concatenate([best, first[None], points[jnp.argsort(merits.max(1))]])
    if not problem.plan.separate:
        return candidates, [jnp.full_like(first, jnp.nan)] * 2
    own = residuals[:, problem.order.rows]
    ends = []
    for is_side in (own > 0, own < 0):
        nearest = jnp.argmin(jnp.where(is_side, merits, jnp.inf), axis=0)[None]
        end = jnp.take_along_axis(points, nearest, axis=0)[0]
        ends.append(jnp.where(is_side.any(0), end, jnp.nan))
    return candidates, ends


def _is_root(problem: Problem, x: Array) -> Array:
    """Tell for which numbers the residual, or the error of x that it implies, is only rounding."""
    plan, order, y = problem.plan, problem.order, problem.y
    value, solve = direction(plan, problem.origin, x, problem.outside)
    r = y - value
    eps = jnp.finfo(y.dtype).eps
    error = jnp.abs(solve(r))
    allowed = 64 * eps * (jnp.abs(y) + jnp.abs(value)) + 16 * _rounding(problem, x)
    is_small = problem.merit(jnp.where(jnp.abs(r) <= allowed, 0, r)) == 0
    is_close = (error > 0) & (error <= 64 * eps * jnp.abs(x)) & jnp.isfinite(r[order.rows])
    return jnp.isfinite(x) & (is_small | is_close | ~jnp.asarray(problem.unknown))


def _rounding(problem: Problem, x: Array) -> Array:
    """Estimate the rounding errors of the outputs, to first order and for random signs."""
    # An output near 0 may be the difference of large numbers, so its own size does not tell. Every
    # float inside the segment, and x itself, is changed by its own rounding error.
    segment = problem.plan.segment
    count = 1 + sum(s.is_float for equation in segment.equations for s in equation.results)
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (_SAMPLES, count)).astype("float32")

    def change(phases):
        def outputs(size):
            each = iter(phases)
            start = split(_perturbed(x, next(each), size), segment.inputs)
            changed = lambda y: _perturbed(y, next(each), size)
            return joined(replay(segment, problem.outside, start, changed), segment.outputs)

        return jax.jvp(outputs, (jnp.zeros((), x.dtype),), (jnp.ones((), x.dtype),))[1]

    noise = jnp.abs(jax.vmap(change)(jnp.asarray(phases))).max(0)
    return jnp.finfo(x.dtype).eps * jnp.where(jnp.isfinite(noise), noise, 0)


def _perturbed(y: Array, phase: Array, size: Array) -> Array:
    """Change every number by a relative error with a sign of its own."""
    sign = jnp.sign(jnp.sin(12.9898 * jnp.arange(y.size, dtype=jnp.float32) + phase))
    return y * (1 + size * sign.reshape(y.shape)).astype(y.dtype)
