"""A stateless shuffle: map a position in an epoch to an example without a stored permutation."""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl._typing import Array, Int, Key

_ROUNDS = 6  # four give a pseudo-random permutation (Luby and Rackoff, 1988); two more for small n


@partial(jax.jit, static_argnums=3)
def shuffled(
    key: Key[Array, ""], epoch: Int[Array, " b"], index: Int[Array, " b"], n: int
) -> Array:
    r"""Map positions in an epoch to examples, one to one on ``range(n)``.

    A Feistel network permutes the next power of four. A value that falls outside of ``range(n)`` is
    permuted again, along its cycle, until it is inside. The cost is O(b), and nothing of size n is
    stored.

    Args:
        key: The key that draws the order of the data.
        epoch: ``(b,)``, the epochs; each epoch has its own order.
        index: ``(b,)``, positions in 0..n-1.
        n: The number of examples.

    Returns:
        ``(b,)`` examples in 0..n-1.

    Source: Luby and Rackoff, "How to construct pseudorandom permutations", SIAM J. Computing 17
    (1988); Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), for the walk.

    >>> order = shuffled(jax.random.key(0), jnp.zeros(5, int), jnp.arange(5), 5)
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4]
    """
    # A Feistel round (left, right) -> (right, left ^ hash(right)) is a bijection for any hash, so
    # the composition permutes the 2**(2 half) values of two halves. A permutation of a set that
    # contains range(n) becomes one of range(n) by following each cycle to its next element below n.
    # Compared with jax.random.permutation, no array of size n is sorted or stored, and an epoch can
    # be entered at any position. There are at most 4 n values, so at most 4 permutations are needed
    # per example on average.
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = jnp.uint32((1 << half) - 1)
    seeds = jax.random.bits(key, (_ROUNDS,), jnp.uint32)
    epoch = epoch.astype(jnp.uint32)

    def permute(v):
        left, right = v >> half, v & mask
        for seed in seeds:
            left, right = right, left ^ (_mix(right, _mix(epoch, seed)) & mask)
        return (left << half) | right

    def walk(state):
        v, outside = state
        v = jnp.where(outside, permute(v), v)
        return v, v >= n

    start = index.astype(jnp.uint32), jnp.ones(index.shape, bool)  # permute each at least once
    return jax.lax.while_loop(lambda s: s[1].any(), walk, start)[0].astype(jnp.int32)


def _mix(x: Array, seed: Array) -> Array:
    """Hash 32 bits (the finalizer of MurmurHash3)."""
    x = (x ^ seed) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
