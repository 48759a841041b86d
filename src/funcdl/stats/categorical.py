"""The distribution of a label among c classes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import check_key, concrete, integer_in, not_negative, real_array, record
from funcdl._typing import Array, Key, Scalar
from funcdl.stats import _discrete_entropy as _discrete

__all__ = ["Categorical", "cross_entropy", "entropy", "fit", "kl", "log_prob", "pmf", "sample"]


class Categorical(NamedTuple):
    """The parameters of a categorical distribution.

    Attributes:
        logits: ``(c,)``, log-probabilities up to a constant; minus infinity means probability 0.
    """

    logits: Array


def log_prob(params: Categorical, label: int | Array) -> Scalar:
    r"""Evaluate the log-probability of a label, :math:`l_k - \log \sum_j e^{l_j}`.

    Args:
        params: The logits, ``(c,)``.
        label: An integer in 0..c-1.

    Returns:
        A scalar; minus infinity where a traced label is out of range, NaN where every logit is
        minus infinity. Its gradient is finite next to logits of minus infinity.

    Raises:
        ValueError: If the label is out of range.
        TypeError: If it is not an integer.

    >>> log_prob(Categorical(jnp.log(jnp.asarray([0.5, 0.5, 0.0]))), 1).round(4).item()
    -0.6931
    """
    logits = _logits("params", params)
    label = _labels("label", label, 0, len(logits))
    inside = (label >= 0) & (label < len(logits))
    log_probs = jax.nn.log_softmax(logits)
    return jnp.where(inside, log_probs[jnp.where(inside, label, 0)], -jnp.inf)


def pmf(params: Categorical, label: int | Array) -> Scalar:
    """Evaluate the probability of a label, the exponential of ``log_prob``.

    Args:
        params: The logits, ``(c,)``.
        label: An integer in 0..c-1.

    Returns:
        A scalar.
    """
    return jnp.exp(log_prob(params, label))


def sample(key: Key[Array, ""], params: Categorical) -> Array:
    """Draw one label.

    Args:
        key: The random key; split it and use ``jax.vmap`` for many.
        params: The logits, ``(c,)``.

    Returns:
        An integer scalar.

    Raises:
        TypeError: If the key is not typed.
    """
    check_key(key)
    return jax.random.categorical(key, _logits("params", params))


def fit(
    labels: Array,
    c: int,
    *,
    weights: Array | None = None,
    pseudo_count: float | Array = 0.0,
) -> Categorical:
    r"""Estimate the probabilities by maximum likelihood: the shares of the classes.

    .. math::
        p_k = \frac{n_k + \alpha}{n + c\, \alpha}

    Args:
        labels: ``(n,)``, integers in 0..c-1; if a traced label is out of range, the result is NaN.
        c: The number of classes.
        weights: ``(n,)``, not negative; each label counts once by default.
        pseudo_count: The number :math:`\alpha` that is added to each count; 1 is Laplace's rule.

    Returns:
        Normalized logits; minus infinity for a class that does not occur and has no pseudo-count.

    Raises:
        ValueError: If ``labels`` is empty, a label is out of range, or a weight or the
            pseudo-count is negative.
        TypeError: If the labels are not integers.

    >>> jnp.exp(fit(jnp.asarray([0, 1, 1, 1]), 2).logits).tolist()
    [0.25, 0.75]
    """
    c = integer_in("c", c, 1, 2**31 - 1)
    labels = _labels("labels", labels, 1, c)
    weights = jnp.ones(labels.shape) if weights is None else real_array("weights", weights, 1)
    if weights.shape != labels.shape:
        raise ValueError(f"weights has shape {weights.shape}; expected {labels.shape}, like labels")
    not_negative("weights", weights)
    not_negative("pseudo_count", pseudo_count)
    added = concrete(pseudo_count)
    if not labels.size and added is not None and not added.any():
        raise ValueError("labels has shape (0,); expected at least one label, or a pseudo_count")
    counts = jnp.zeros(c, weights.dtype).at[labels].add(weights) + pseudo_count
    counts = jnp.where(((labels >= 0) & (labels < c)).all(), counts, jnp.nan)
    never = counts == 0
    logs = jnp.where(never, -jnp.inf, jnp.log(jnp.where(never, 1, counts)))
    return Categorical(logs - jnp.log(counts.sum()))


def entropy(params: Categorical) -> Scalar:
    r"""Evaluate the entropy, :math:`-\sum_k p_k \log p_k`, where :math:`0 \log 0 = 0`.

    Args:
        params: The logits, ``(c,)``.

    Returns:
        The entropy in nats, from 0 to :math:`\log c`; NaN where every logit is minus infinity.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.1.

    >>> entropy(Categorical(jnp.log(jnp.asarray([0.5, 0.5, 0.0])))).round(4).item()  # log 2
    0.6931
    """
    return _discrete.entropy(_log_probs("params", params))


def cross_entropy(p: Categorical, q: Categorical) -> Scalar:
    r"""Evaluate the cross-entropy :math:`-\sum_k p_k \log q_k`.

    Args:
        p: The distribution that labels are drawn from, ``(c,)``.
        q: The approximation of p, ``(c,)``.

    Returns:
        The cross-entropy in nats; infinite where q excludes a label that p does not.

    Raises:
        ValueError: If p and q have different c.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 5.4.

    >>> uniform = Categorical(jnp.zeros(4))
    >>> cross_entropy(Categorical(jnp.arange(4.0)), uniform).round(4).item()  # log 4
    1.3863
    """
    log_p, log_q = _two(p, q)
    return _discrete.cross_entropy(log_p, log_q)


def kl(p: Categorical, q: Categorical) -> Scalar:
    r"""Evaluate the Kullback-Leibler divergence :math:`\sum_k p_k \log(p_k / q_k)`.

    Computed as :math:`\sum_k p_k \log(p_k / q_k) - p_k + q_k`, whose terms are all non-negative, so
    that nothing cancels where p and q are nearly equal.

    Args:
        p: The distribution that labels are drawn from, ``(c,)``.
        q: The approximation of p, ``(c,)``.

    Returns:
        The divergence in nats, non-negative; infinite where q excludes a label that p does not.

    Raises:
        ValueError: If p and q have different c.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.3.

    >>> certain = Categorical(jnp.log(jnp.asarray([1.0, 0.0])))
    >>> kl(certain, Categorical(jnp.zeros(2))).round(4).item()  # log 2
    0.6931
    """
    log_p, log_q = _two(p, q)
    return _discrete.kl(log_p, log_q)


def _logits(name: str, params: Categorical) -> Array:
    record(name, params, Categorical, "the parameters of the distribution")
    return real_array(f"{name}.logits", params.logits, 1)


def _log_probs(name: str, params: Categorical) -> Array:
    return jax.nn.log_softmax(_logits(name, params))


def _two(p: Categorical, q: Categorical) -> tuple[Array, Array]:
    log_p, log_q = _log_probs("p", p), _log_probs("q", q)
    if log_p.shape != log_q.shape:
        raise ValueError(f"p has c = {len(log_p)} and q has c = {len(log_q)}; expected the same")
    return log_p, log_q


def _labels(name: str, labels: int | Array, ndim: int, c: int) -> Array:
    """Return labels as integers, and check the range of those whose values are known."""
    dtype, shape = jnp.result_type(labels), jnp.shape(labels)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {dtype}; expected integers in 0..{c - 1}")
    if len(shape) != ndim:
        hint = "; for a batch, use jax.vmap" if len(shape) > ndim else ""
        raise ValueError(f"{name} has shape {shape}; expected {ndim} axes{hint}")
    values = concrete(labels)
    if values is not None and not ((values >= 0) & (values < c)).all():
        outside = values[(values < 0) | (values >= c)].flat[0]
        raise ValueError(f"{name} has {outside}; expected integers in 0..{c - 1}")
    return jnp.asarray(labels)
