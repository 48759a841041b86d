"""The distribution of one bit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import check_key, concrete, not_negative, real_array, record
from funcdl._typing import Array, Key, Scalar
from funcdl.stats import _discrete_entropy as _discrete

__all__ = [
    "Bernoulli",
    "cdf",
    "cross_entropy",
    "entropy",
    "fit",
    "kl",
    "log_prob",
    "pmf",
    "sample",
]


class Bernoulli(NamedTuple):
    r"""The parameter of a Bernoulli distribution.

    Attributes:
        logit: :math:`\log \frac{p}{1 - p}`, a scalar; infinite values mean certainty.
    """

    logit: Array


def log_prob(params: Bernoulli, x: int | Array) -> Scalar:
    r"""Evaluate the log-probability of a bit, :math:`-\log(1 + e^{(1 - 2 x) l})`.

    Args:
        params: The logit.
        x: 0 or 1, an integer or a boolean.

    Returns:
        A scalar; minus infinity where a traced x is neither 0 nor 1.

    Raises:
        ValueError: If x is neither 0 nor 1.
        TypeError: If it is not an integer.

    >>> log_prob(Bernoulli(jnp.asarray(-100.0)), 1).item()
    -100.0
    """
    logit = _logit("params", params)
    x = _bits("x", x, 0)
    value = -jax.nn.softplus(jnp.where(x == 1, -logit, logit))
    return jnp.where((x == 0) | (x == 1), value, -jnp.inf)


def pmf(params: Bernoulli, x: int | Array) -> Scalar:
    """Evaluate the probability of a bit, the exponential of ``log_prob``.

    Args:
        params: The logit.
        x: 0 or 1, an integer or a boolean.

    Returns:
        A scalar.
    """
    return jnp.exp(log_prob(params, x))


def cdf(params: Bernoulli, x: float | Array) -> Scalar:
    r"""Evaluate the distribution function, :math:`P(X \le x)`.

    Args:
        params: The logit.
        x: Any real number.

    Returns:
        0 below 0, the probability of 0 below 1, then 1.

    >>> cdf(Bernoulli(jnp.asarray(0.0)), 0.3).item()
    0.5
    """
    logit = _logit("params", params)
    return jnp.where(x < 0, 0, jnp.where(x < 1, jax.nn.sigmoid(-logit), 1)).astype(logit.dtype)


def sample(key: Key[Array, ""], params: Bernoulli) -> Array:
    """Draw one bit.

    Args:
        key: The random key; split it and use ``jax.vmap`` for many.
        params: The logit.

    Returns:
        0 or 1, an integer scalar.

    Raises:
        TypeError: If the key is not typed.
    """
    check_key(key)
    logit = _logit("params", params)
    return (jax.random.logistic(key, (), logit.dtype) < logit).astype(jnp.int32)


def fit(x: Array, *, weights: Array | None = None, pseudo_count: float | Array = 0.0) -> Bernoulli:
    r"""Estimate the logit by maximum likelihood, :math:`\log \frac{n_1 + \alpha}{n_0 + \alpha}`.

    Args:
        x: ``(n,)``, integers or booleans, 0 or 1; if a traced value is neither, the result is NaN.
        weights: ``(n,)``, not negative; each bit counts once by default.
        pseudo_count: The number :math:`\alpha` that is added to both counts; 1 is Laplace's rule.

    Returns:
        The logit; infinite where one of the bits does not occur and the pseudo-count is 0.

    Raises:
        ValueError: If a bit is neither 0 nor 1, or a weight or the pseudo-count is negative.
        TypeError: If the bits are not integers.

    >>> jax.nn.sigmoid(fit(jnp.asarray([0, 1, 1, 1])).logit).item()
    0.75
    """
    x = _bits("x", x, 1)
    weights = jnp.ones(x.shape) if weights is None else real_array("weights", weights, 1)
    if weights.shape != x.shape:
        raise ValueError(f"weights has shape {weights.shape}; expected {x.shape}, like x")
    not_negative("weights", weights)
    not_negative("pseudo_count", pseudo_count)
    zeros, ones = (jnp.where(x == bit, weights, 0).sum() + pseudo_count for bit in (0, 1))
    return Bernoulli(jnp.where(((x == 0) | (x == 1)).all(), _log(ones) - _log(zeros), jnp.nan))


def entropy(params: Bernoulli) -> Scalar:
    r"""Evaluate the entropy, :math:`-p \log p - (1 - p) \log(1 - p)`.

    Args:
        params: The logit.

    Returns:
        The entropy in nats, from 0 to :math:`\log 2`.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.1.

    >>> entropy(Bernoulli(jnp.asarray(0.0))).round(4).item()  # log 2
    0.6931
    """
    return _discrete.entropy(_log_probs("params", params))


def cross_entropy(p: Bernoulli, q: Bernoulli) -> Scalar:
    r"""Evaluate the cross-entropy, :math:`-\sum_x p(x) \log q(x)` over both bits.

    Args:
        p: The distribution that bits are drawn from.
        q: The approximation of p.

    Returns:
        The cross-entropy in nats; infinite where q excludes a bit that p does not.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 5.4.

    >>> cross_entropy(Bernoulli(jnp.asarray(3.0)), Bernoulli(jnp.asarray(0.0))).round(4).item()
    0.6931
    """
    return _discrete.cross_entropy(_log_probs("p", p), _log_probs("q", q))


def kl(p: Bernoulli, q: Bernoulli) -> Scalar:
    r"""Evaluate the Kullback-Leibler divergence, :math:`\sum_x p(x) \log(p(x) / q(x))`.

    Args:
        p: The distribution that bits are drawn from.
        q: The approximation of p.

    Returns:
        The divergence in nats, non-negative, and accurate where p and q are nearly equal; infinite
        where q excludes a bit that p does not.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.3.

    >>> kl(Bernoulli(jnp.asarray(jnp.inf)), Bernoulli(jnp.asarray(0.0))).round(4).item()  # log 2
    0.6931
    """
    return _discrete.kl(_log_probs("p", p), _log_probs("q", q))


def _logit(name: str, params: Bernoulli) -> Array:
    record(name, params, Bernoulli, "the parameters of the distribution")
    return real_array(f"{name}.logit", params.logit, 0)


def _log_probs(name: str, params: Bernoulli) -> Array:
    """Return the log-probabilities of 0 and 1."""
    logit = _logit(name, params)
    return -jax.nn.softplus(jnp.stack([logit, -logit]))


def _log(count: Array) -> Array:
    return jnp.where(count == 0, -jnp.inf, jnp.log(jnp.where(count == 0, 1, count)))


def _bits(name: str, x: int | Array, ndim: int) -> Array:
    """Return bits as integers, and check those whose values are known."""
    dtype, shape = jnp.result_type(x), jnp.shape(x)
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool)):
        raise TypeError(f"{name} has dtype {dtype}; expected integers 0 or 1, or booleans")
    if len(shape) != ndim:
        hint = "; for a batch, use jax.vmap" if len(shape) > ndim else ""
        raise ValueError(f"{name} has shape {shape}; expected {ndim} axes{hint}")
    values = concrete(x)
    if values is not None and not ((values == 0) | (values == 1)).all():
        wrong = values[(values != 0) & (values != 1)].flat[0]
        raise ValueError(f"{name} has {wrong}; expected 0 or 1")
    return jnp.asarray(x, jnp.int32)
