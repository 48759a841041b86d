"""Levinson's recursion: Toeplitz systems and determinants of any leading size, in O(n²)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import Array


class Levinson(NamedTuple):
    """The solution and the pivots of a Toeplitz matrix, ``det T = Π pivots``.

    Attributes:
        x: ``(n,)`` with ``T x = b``.
        logdet: Sum of the logarithms of the pivots' sizes.
        smallest: The smallest pivot; positive for a positive definite matrix and only there.
        ratio: The smallest size of a pivot over the largest; near 0 the recursion is not stable.
    """

    x: Array
    logdet: Array
    smallest: Array
    ratio: Array


class _State(NamedTuple):
    """For the leading matrix T of each size; entries beyond it are 0."""

    forward: Array  # T f = the first unit vector
    backward: Array  # T b = the last one
    x: Array
    logdet: Array
    smallest: Array
    low: Array
    high: Array


def levinson(column: Array, row: Array, b: Array) -> Levinson:
    """Grow the solution of the leading system by one number a step.

    Args:
        column: The first column, ``(n,)``.
        row: The first row, ``(n,)``.
        b: The right-hand side, ``(n,)``.

    Returns:
        Solution and determinant; not finite where a leading matrix is singular.
    """
    n = column.size
    reverse = jnp.concatenate([column[::-1], jnp.zeros_like(column)])
    after = jnp.append(row[1:], 0)

    def step(s: _State, k):
        last = jax.lax.dynamic_slice(reverse, (n - 1 - k,), (n,))  # row k of T, up to column k
        last = jnp.where(jnp.arange(n) < k, last, 0)
        back, ahead = jnp.roll(s.backward, 1), s.forward
        below, above = last @ ahead, after @ s.backward
        scale = 1 / (1 - below * above)
        forward = scale * (ahead - below * back)
        backward = scale * (back - above * ahead)
        x = s.x + (b[k] - last @ s.x) * backward
        return _with_pivot(forward, backward, x, s), None

    unit = jnp.zeros_like(column).at[0].set(1 / column[0])
    zero, far = jnp.zeros_like(column[0]), jnp.full_like(column[0], jnp.inf)
    before = _State(unit, unit, b[0] * unit, zero, far, far, zero)
    first = _with_pivot(unit, unit, before.x, before)
    end = jax.lax.scan(step, first, jnp.arange(1, n))[0]
    return Levinson(end.x, end.logdet, end.smallest, end.low / end.high)


def _with_pivot(forward, backward, x, s: _State) -> _State:
    pivot = 1 / forward[0]
    size = jnp.abs(pivot)
    low, high = jnp.minimum(s.low, size), jnp.maximum(s.high, size)
    logdet = s.logdet + jnp.log(size)
    return _State(forward, backward, x, logdet, jnp.minimum(s.smallest, pivot), low, high)
