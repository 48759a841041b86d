"""Lloyd's iteration, in blocks of rows that fit a cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import Array

_BLOCK = 2**18  # numbers in a block of rows: 1 MB of float32


class State(NamedTuple):
    centers: Array
    before: Array  # the centers of which these are the means
    shift: Array  # squared, between the two
    steps: Array


@jax.custom_jvp
def iterate(x: Array, centers: Array, origin: Array, control: tuple) -> State:
    """Move the centers until they rest; the derivative is that of their last means."""
    tol, max_steps = control
    least = threshold(x, origin, tol)

    def step(state: State) -> State:
        means = _means(x, state.centers, origin)
        shift = ((means - state.centers) ** 2).sum()
        return State(means, state.centers, shift, state.steps + 1)

    def unfinished(state: State):
        return (state.shift > least) & (state.steps < max_steps)

    start = State(centers, centers, jnp.asarray(jnp.inf, x.dtype), jnp.int32(0))
    return jax.lax.while_loop(unfinished, step, start)


@iterate.defjvp
def _rule(primals, tangents):
    x, start, origin, control = primals
    state = iterate(x, start, origin, control)
    labels = assign(x, state.before, origin)
    member = jax.nn.one_hot(labels, len(start), dtype=x.dtype, axis=0)  # (c, n)
    counts = member.sum(axis=1, keepdims=True)
    means = member @ tangents[0] / jnp.maximum(counts, 1)
    moved = jnp.where((state.steps > 0) & (counts > 0), means, tangents[1])
    still = jnp.zeros_like(state.shift)
    no = jnp.zeros(state.steps.shape, jax.dtypes.float0)
    return state, State(moved, jnp.zeros_like(moved), still, no)


def threshold(x: Array, origin: Array, tol):
    """Return the squared shift at which centers rest."""

    def add(total, rows, _):
        return total + ((rows - origin[None]) ** 2).sum()

    return tol * _over_blocks(add, jnp.zeros((), x.dtype), x) / x.size


def _means(x: Array, centers: Array, origin: Array) -> Array:
    """Average the rows next to each center; one product assigns, one adds."""
    c, relative = len(centers), centers - origin[None]

    def add(carry, rows, _):
        sums, counts = carry
        rows = rows - origin[None]
        member = jax.nn.one_hot(_nearest(rows, relative), c, dtype=x.dtype, axis=0)  # (c, b)
        return sums + jnp.matmul(member, rows, precision="highest"), counts + member.sum(axis=1)

    zero = jnp.zeros_like(centers), jnp.zeros(c, x.dtype)
    sums, counts = _over_blocks(add, zero, x)
    counts = counts[:, None]
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1) + origin[None], centers)


def assign(x: Array, centers: Array, origin: Array) -> Array:
    """Return the nearest center of each row."""
    relative = centers - origin[None]

    def write(labels, rows, at):
        nearest = _nearest(rows - origin[None], relative)
        return jax.lax.dynamic_update_slice_in_dim(labels, nearest, at, 0)

    return _over_blocks(write, jnp.zeros(len(x), jnp.int32), jax.lax.stop_gradient(x))


def inertia(x: Array, centers: Array, labels: Array) -> Array:
    """Sum the squared distances of the rows to their centers."""

    def add(total, rows, at):
        own = centers[jax.lax.dynamic_slice_in_dim(labels, at, len(rows))]
        return total + ((rows - own) ** 2).sum()

    return _over_blocks(add, jnp.zeros((), x.dtype), x)


def _nearest(rows: Array, centers: Array) -> Array:
    half = (centers * centers).sum(axis=1)[None] / 2
    product = jnp.matmul(rows, centers.T, precision="highest")
    return jnp.argmin(half - product, axis=1).astype(jnp.int32)


def _over_blocks(f, carry, x: Array):
    """Fold ``f(carry, rows, at)`` over blocks of rows; none is copied but into a cache."""
    n, d = x.shape
    size = max(256, _BLOCK // max(d, 1))
    whole = n // size

    def block(carry, i):
        at = i * size
        return f(carry, jax.lax.dynamic_slice_in_dim(x, at, size), at), None

    if whole:
        carry, _ = jax.lax.scan(block, carry, jnp.arange(whole))
    rest = n - whole * size
    return f(carry, x[whole * size :], whole * size) if rest else carry
