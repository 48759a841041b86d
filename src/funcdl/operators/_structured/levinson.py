"""Levinson's recursion: Toeplitz systems and determinants of every leading size, in O(n²)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import Array


class Levinson(NamedTuple):
    """The solution and the pivots of a Toeplitz matrix, ``det T = Π pivots``.

    Attributes:
        x: ``(n,)`` with ``T x = b``.
        logdet: The sum of the logarithms of the pivots' magnitudes.
        smallest: The smallest pivot; positive if and only if T is positive definite.
        ratio: The smallest magnitude of a pivot over the largest; near 0 the recursion is unstable.
    """

    x: Array
    logdet: Array
    smallest: Array
    ratio: Array


class _State(NamedTuple):
    """The vectors of the leading matrix T of each size, with 0 beyond it."""

    forward: Array  # T f = the first unit vector
    backward: Array  # T b = the last unit vector
    x: Array
    logdet: Array
    smallest: Array
    low: Array
    high: Array


# Invariant: after step k, with the leading (k + 1) x (k + 1) matrix T, the vectors satisfy
# T forward = e_0, T backward = e_k and T x = b[: k + 1]. Padded by one zero, forward and backward
# each have one wrong entry in the next product (`below`, `above`); a combination of the two removes
# both. All arrays have length n, with zeros beyond k, so that the steps are one scan. The pivots
# are the ratios of successive determinants. Nothing is pivoted: callers must check the residual.
def levinson(column: Array, row: Array, b: Array) -> Levinson:
    """Extend the solution of the leading system by one entry per step.

    Args:
        column: The first column, ``(n,)``.
        row: The first row, ``(n,)``.
        b: The right-hand side, ``(n,)``.

    Returns:
        The solution and the determinant; not finite where a leading matrix is singular.
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
    before = _State(
        forward=unit, backward=unit, x=b[0] * unit, logdet=zero, smallest=far, low=far, high=zero
    )
    first = _with_pivot(unit, unit, before.x, before)
    end = jax.lax.scan(step, first, jnp.arange(1, n))[0]
    return Levinson(end.x, end.logdet, end.smallest, end.low / end.high)


def _with_pivot(forward: Array, backward: Array, x: Array, s: _State) -> _State:
    pivot = 1 / forward[0]
    size = jnp.abs(pivot)
    return _State(
        forward=forward,
        backward=backward,
        x=x,
        logdet=s.logdet + jnp.log(size),
        smallest=jnp.minimum(s.smallest, pivot),
        low=jnp.minimum(s.low, size),
        high=jnp.maximum(s.high, size),
    )
