"""Entropies of any density ``log_prob(x)`` from draws, each with its standard error.

For densities without a closed form, such as mixtures. With ``jax.tree_util.Partial``, a density is
``Partial(mixture.log_prob, params)`` and a sampler ``Partial(mixture.sample, params=params)``.
"""

from jax.tree_util import Partial

from funcdl._closure import as_partial
from funcdl._typing import Array, Key, LogProb, PyTree, Sampler
from funcdl.operators import Estimate
from funcdl.stats._expectation import expectation

__all__ = ["cross_entropy", "entropy", "kl"]


def entropy(
    log_p: LogProb, sample: Sampler, *, key: Key[Array, ""], samples: int = 1024
) -> Estimate:
    r"""Estimate the entropy :math:`-E_p[\log p(x)]`.

    Args:
        log_p: ``log_p(x) -> scalar``, normalized.
        sample: ``sample(key) -> x``, a draw from p.
        key: The random key.
        samples: The number of draws, at least 2.

    Returns:
        The entropy in nats, without bias, and its standard error.

    Raises:
        ValueError: If ``samples < 2``.
        TypeError: If the key is not typed.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 8.1.

    >>> import jax
    >>> log_p = jax.scipy.stats.uniform.logpdf  # of 0..1
    >>> entropy(log_p, jax.random.uniform, key=jax.random.key(0), samples=2).value.item() + 0
    0.0
    """
    return cross_entropy(log_p, sample, key=key, samples=samples)


def cross_entropy(
    log_q: LogProb, sample: Sampler, *, key: Key[Array, ""], samples: int = 1024
) -> Estimate:
    r"""Estimate the cross-entropy :math:`-E_p[\log q(x)]`; only draws from p are needed.

    Args:
        log_q: ``log_q(x) -> scalar``, normalized.
        sample: ``sample(key) -> x``, a draw from p.
        key: The random key.
        samples: The number of draws, at least 2.

    Returns:
        The cross-entropy in nats, without bias, and its standard error; infinity, with NaN as its
        error, where a draw is impossible under q.

    Raises:
        ValueError: If ``samples < 2``.
        TypeError: If the key is not typed.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 5.4.

    >>> import jax
    >>> wide = Partial(jax.scipy.stats.uniform.logpdf, scale=2.0)
    >>> estimate = cross_entropy(wide, jax.random.uniform, key=jax.random.key(0))
    >>> estimate.value.round(4).item(), estimate.stderr.item()  # log 2
    (0.6931, 0.0)
    """
    return expectation(Partial(_surprise, as_partial(log_q)), sample, key=key, samples=samples)


def kl(
    log_p: LogProb, log_q: LogProb, sample: Sampler, *, key: Key[Array, ""], samples: int = 1024
) -> Estimate:
    r"""Estimate the Kullback-Leibler divergence :math:`E_p[\log p(x) - \log q(x)]`.

    Args:
        log_p: ``log_p(x) -> scalar``, normalized.
        log_q: ``log_q(x) -> scalar``, normalized.
        sample: ``sample(key) -> x``, a draw from p.
        key: The random key.
        samples: The number of draws, at least 2.

    Returns:
        The divergence in nats, without bias, and its standard error; the estimate may be negative,
        within its error. It is infinity, with NaN as its error, where a draw is impossible under q.

    Raises:
        ValueError: If ``samples < 2``.
        TypeError: If the key is not typed.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 8.5.

    >>> import jax
    >>> narrow, wide = (Partial(jax.scipy.stats.uniform.logpdf, scale=c) for c in (1.0, 2.0))
    >>> kl(narrow, wide, jax.random.uniform, key=jax.random.key(0)).value.round(4).item()  # log 2
    0.6931
    """
    ratio = Partial(_log_ratio, as_partial(log_p), as_partial(log_q))
    return expectation(ratio, sample, key=key, samples=samples)


def _surprise(log_q: LogProb, x: PyTree) -> Array:
    return -log_q(x)


def _log_ratio(log_p: LogProb, log_q: LogProb, x: PyTree) -> Array:
    return log_p(x) - log_q(x)
