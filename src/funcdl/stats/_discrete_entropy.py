"""Entropies of normalized log-probabilities of any shape; minus infinity means impossible."""

import jax.numpy as jnp

from funcdl._typing import Array, Scalar
from funcdl.stats._exp_excess import excess


def entropy(log_p: Array) -> Scalar:
    """Sum ``-p log p``, where 0 log 0 is 0."""
    return cross_entropy(log_p, log_p)


def cross_entropy(log_p: Array, log_q: Array) -> Scalar:
    """Sum ``-p log q``: infinite where q excludes an outcome that p does not."""
    (never, p, log_p), (excluded, _, log_q) = _parts(log_p), _parts(log_q)
    return jnp.where(never, 0, jnp.where(excluded, jnp.inf, -p * log_q)).sum()


def kl(log_p: Array, log_q: Array) -> Scalar:
    """Sum ``p log(p / q) - p + q``: all terms are non-negative, so no digits cancel near p = q."""
    (never, p, log_p), (excluded, q, log_q) = _parts(log_p), _parts(log_q)
    t = log_q - log_p
    near = jnp.abs(t) < 1
    # p exp(t) equals q, which is used where t is large, since exp(t) overflows where p is tiny
    terms = jnp.where(near, p * excess(jnp.where(near, t, 0)), q - p - p * t)
    return jnp.where(never, q, jnp.where(excluded, jnp.inf, terms)).sum()


def _parts(log_p: Array) -> tuple[Array, Array, Array]:
    """Return a mask of impossible outcomes, the probabilities, and finite logarithms."""
    never = jnp.isneginf(log_p)
    finite = jnp.where(never, 0, log_p)
    return never, jnp.where(never, 0, jnp.exp(finite)), finite
