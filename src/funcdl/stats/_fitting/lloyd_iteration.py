"""Lloyd's iteration, in blocks of rows that fit into a cache."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl._numerics import custom_jvp, no_tangent
from funcdl._typing import Array, ArrayLike

_BLOCK = 2**18  # the numbers in a block of rows: 1 MB in float32


class State(NamedTuple):
    """The state of Lloyd's iteration."""

    centers: Array
    before: Array  # the previous centers, whose nearest rows have the means `centers`
    shift: Array  # squared distance between the two
    steps: Array
    moves: Array  # (c,), whether a center without rows moves before the next step
    goals: Array  # (c, d), the rows to which they move


# One pass over the data per step: each block of rows is assigned by one product with the centers
# and summed by another while it is in the cache. The nearest center minimizes |c|² / 2 - x c,
# measured from the mean of the data, because a common offset would cost digits. A center without
# rows moves to the row that is farthest from its center, and the step that follows gives it rows:
# the sum of distances falls all the same. The loop is not differentiated: labels are constant
# almost everywhere, so the derivative of the last means is exact.
@custom_jvp
def iterate(x: Array, centers: Array, origin: Array, control: tuple) -> State:
    """Move the centers until they stop; the derivative is that of their last means."""
    tol, max_steps = control
    limit = threshold(x, origin, tol)

    def step(state: State) -> State:
        before = jnp.where(state.moves[:, None], state.goals, state.centers)
        means, empty = _means(x, before, origin)
        moves, goals = _relocation(x, means, empty, origin)
        return State(
            centers=means,
            before=before,
            shift=((means - state.centers) ** 2).sum(),
            steps=state.steps + 1,
            moves=moves,
            goals=goals,
        )

    def unfinished(state: State):
        return ((state.shift > limit) | state.moves.any()) & (state.steps < max_steps)

    infinite = jnp.asarray(jnp.inf, x.dtype)
    start = State(
        centers=centers,
        before=centers,
        shift=infinite,
        steps=jnp.int32(0),
        moves=jnp.zeros(len(centers), bool),
        goals=centers,
    )
    return jax.lax.while_loop(unfinished, step, start)


@iterate.defjvp
def _iterate_jvp(primals: tuple, tangents: tuple) -> tuple:
    x, start, origin, control = primals
    state = iterate(x, start, origin, control)
    labels = assign(x, state.before, origin)
    member = jax.nn.one_hot(labels, len(start), dtype=x.dtype, axis=0)  # (c, n)
    counts = member.sum(axis=1, keepdims=True)
    means = member @ tangents[0] / jnp.maximum(counts, 1)
    moved = jnp.where((state.steps > 0) & (counts > 0), means, tangents[1])
    zero = jnp.zeros_like(moved)
    tangent = State(
        centers=moved,
        before=zero,
        shift=no_tangent(state.shift),
        steps=no_tangent(state.steps),
        moves=no_tangent(state.moves),
        goals=zero,
    )
    return state, tangent


def threshold(x: Array, origin: Array, tol: ArrayLike) -> Array:
    """Return the squared shift at which the centers count as converged."""

    def add(total, rows, _):
        return total + ((rows - origin[None]) ** 2).sum()

    return tol * _over_blocks(add, jnp.zeros((), x.dtype), x) / x.size


def _means(x: Array, centers: Array, origin: Array) -> tuple[Array, Array]:
    """Average the nearest rows of each center; one product assigns them, another one sums.

    Returns:
        The means, and which centers have no rows and stay.
    """
    c, relative = len(centers), centers - origin[None]

    def add(carry, rows, _):
        sums, counts = carry
        rows = rows - origin[None]
        member = jax.nn.one_hot(_nearest(rows, relative), c, dtype=x.dtype, axis=0)  # (c, b)
        return sums + jnp.matmul(member, rows, precision="highest"), counts + member.sum(axis=1)

    zero = jnp.zeros_like(centers), jnp.zeros(c, x.dtype)
    sums, counts = _over_blocks(add, zero, x)
    empty = counts == 0
    means = sums / jnp.maximum(counts, 1)[:, None] + origin[None]
    return jnp.where(empty[:, None], centers, means), empty


def _relocation(x: Array, centers: Array, empty: Array, origin: Array) -> tuple[Array, Array]:
    """Choose a row for each center without rows: one after the other, the farthest from all.

    Returns:
        Which centers move, ``(c,)``, and where, ``(c, d)``. None moves to a row that is at its
        center up to rounding: data with fewer different rows leave clusters empty.
    """
    # a loop of one pass or none: of mapped data, all run it if one of them needs it, else none
    noise = 8 * jnp.finfo(x.dtype).eps * jnp.abs(x).max()

    def place(distance, center):
        is_empty, center = center
        goal = x[jnp.argmax(distance)]
        moves = is_empty & (distance.max() > noise**2)
        nearer = jnp.minimum(distance, ((x - goal[None]) ** 2).sum(axis=1))
        return jnp.where(moves, nearer, distance), (moves, jnp.where(moves, goal, center))

    def search(*_):
        own = centers[assign(x, centers, origin)]
        return jax.lax.scan(place, ((x - own) ** 2).sum(axis=1), (empty, centers))[1]

    # a loop of one pass or none: of mapped data, all run it if one of them needs it
    none = jnp.zeros(len(centers), bool), centers
    return jax.lax.fori_loop(0, empty.any().astype(int), search, none)


def assign(x: Array, centers: Array, origin: Array) -> Array:
    """Return the nearest center of each row."""
    relative = centers - origin[None]

    def write(labels, rows, start):
        nearest = _nearest(rows - origin[None], relative)
        return jax.lax.dynamic_update_slice_in_dim(labels, nearest, start, 0)

    return _over_blocks(write, jnp.zeros(len(x), jnp.int32), jax.lax.stop_gradient(x))


def inertia(x: Array, centers: Array, labels: Array) -> Array:
    """Sum the squared distances of the rows to their centers."""

    def add(total, rows, start):
        own = centers[jax.lax.dynamic_slice_in_dim(labels, start, len(rows))]
        return total + ((rows - own) ** 2).sum()

    return _over_blocks(add, jnp.zeros((), x.dtype), x)


def _nearest(rows: Array, centers: Array) -> Array:
    half = (centers * centers).sum(axis=1)[None] / 2
    product = jnp.matmul(rows, centers.T, precision="highest")
    return jnp.argmin(half - product, axis=1).astype(jnp.int32)


def _over_blocks(f: Callable, carry: Any, x: Array) -> Any:
    """Fold ``f(carry, rows, start)`` over blocks of rows, which are only copied into the cache."""
    n, d = x.shape
    size = max(256, _BLOCK // max(d, 1))
    count = n // size

    def block(carry, i):
        start = i * size
        return f(carry, jax.lax.dynamic_slice_in_dim(x, start, size), start), None

    if count:
        carry, _ = jax.lax.scan(block, carry, jnp.arange(count))
    return f(carry, x[count * size :], count * size) if n % size else carry
