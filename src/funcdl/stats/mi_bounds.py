r"""Bounds on a mutual information :math:`I(x; y)` from scores of pairs.

For n pairs drawn together, ``scores[i, j]`` is the score of a critic :math:`f(x_i, y_j)` for x_i
with y_j: the diagonal is drawn from the joint distribution, the other entries from the product of
the marginals. A lower bound is an objective: its negative is a loss of the critic's parameters. On
the data that a critic was fitted to, it is too high; evaluate it on other data.
"""

import math

import jax
import jax.numpy as jnp

from funcdl._check import square
from funcdl._typing import Array, Scalar

__all__ = ["donsker_varadhan", "info_nce", "leave_one_out", "nwj"]


def info_nce(scores: Array) -> Scalar:
    r"""Evaluate a lower bound that cannot exceed :math:`\log n`.

    .. math::
        I \ge E\left[ \frac1n \sum_i \log \frac{e^{f(x_i, y_i)}}
                                               {\frac1n \sum_j e^{f(x_i, y_j)}} \right]

    This is :math:`\log n` minus the cross-entropy of identifying :math:`y_i` among n. The best
    critic is :math:`f = \log \frac{p(y \mid x)}{p(y)}` up to a function of x, such as
    :math:`\log p(x \mid y)`. It estimates this expectation, a lower bound for every n and critic,
    without bias and with low variance; it is far below I where :math:`I > \log n`.

    Args:
        scores: ``(n, n)``, with the pairs on the diagonal; a row shares x.

    Returns:
        The bound in nats.

    Raises:
        ValueError: If it is not square, or n < 2.
        TypeError: If it is not of a float dtype.

    Source: van den Oord, Li and Vinyals, "Representation learning with contrastive predictive
    coding" (2018); Poole et al., "On variational bounds of mutual information", ICML (2019).

    >>> info_nce(1e3 * jnp.eye(4)).round(4).item()  # log 4
    1.3863
    """
    scores = _pairs(scores)
    log_probs = jnp.diagonal(jax.nn.log_softmax(scores, axis=1))
    return log_probs.mean() + math.log(len(scores))


def donsker_varadhan(scores: Array) -> Scalar:
    r"""Evaluate the lower bound of Donsker and Varadhan, which MINE maximizes.

    .. math::
        I \ge E_{p(x, y)}[f] - \log E_{p(x) p(y)}[e^f]

    The best critic is :math:`f = \log \frac{p(x, y)}{p(x) p(y)}` up to a constant, where the bound
    equals I. The logarithm of a mean of n samples is too low, so this estimate is too high on
    average, and a lower bound only as n grows; its variance and bias grow as :math:`e^I / n`.

    Args:
        scores: ``(n, n)``, with the pairs on the diagonal.

    Returns:
        The bound in nats.

    Raises:
        ValueError: If it is not square, or n < 2.
        TypeError: If it is not of a float dtype.

    Source: Belghazi et al., "Mutual information neural estimation", ICML (2018); Donsker and
    Varadhan, Communications on Pure and Applied Mathematics 36 (1983).

    >>> donsker_varadhan(3 * jnp.eye(4)).item()
    3.0
    """
    scores = _pairs(scores)
    return jnp.diagonal(scores).mean() - _log_mean_exp(_others(scores))


def nwj(scores: Array) -> Scalar:
    r"""Evaluate the lower bound of Nguyen, Wainwright and Jordan.

    .. math::
        I \ge E_{p(x, y)}[f] - E_{p(x) p(y)}[e^{f - 1}]

    The best critic is :math:`f = 1 + \log \frac{p(x, y)}{p(x) p(y)}`, where the bound equals I. The
    estimate is unbiased, so it is a lower bound on average for every n and critic; its variance
    grows as :math:`e^I / n`.

    Args:
        scores: ``(n, n)``, with the pairs on the diagonal.

    Returns:
        The bound in nats.

    Raises:
        ValueError: If it is not square, or n < 2.
        TypeError: If it is not of a float dtype.

    Source: Nguyen, Wainwright and Jordan, "Estimating divergence functionals and the likelihood
    ratio by convex risk minimization", IEEE Trans. Information Theory 56 (2010).

    >>> nwj(jnp.ones((4, 4))).item()  # of independent variables
    0.0
    """
    scores = _pairs(scores)
    return jnp.diagonal(scores).mean() - jnp.exp(_log_mean_exp(_others(scores)) - 1)


def leave_one_out(log_conditionals: Array) -> Scalar:
    r"""Evaluate an upper bound from a known conditional density.

    .. math::
        I \le E\left[ \frac1n \sum_i \log \frac{p(y_i \mid x_i)}
                            {\frac{1}{n - 1} \sum_{j \ne i} p(y_i \mid x_j)} \right]

    The encoder of a variational autoencoder is such a density. The estimate of this expectation, an
    upper bound for every n that falls towards I, is unbiased; ``info_nce`` of the transposed scores
    is the corresponding lower bound. For any critic other than the true :math:`\log p(y \mid x)` it
    is not a bound.

    Args:
        log_conditionals: ``(n, n)``, :math:`\log p(y_j \mid x_i)` in row i and column j, with pairs
            on the diagonal.

    Returns:
        The bound in nats.

    Raises:
        ValueError: If it is not square, or n < 2.
        TypeError: If it is not of a float dtype.

    Source: Poole et al., "On variational bounds of mutual information", ICML (2019), equation 13.

    >>> leave_one_out(jnp.zeros((4, 4))).item()  # of independent variables
    0.0
    """
    scores = _pairs(log_conditionals, "log_conditionals")
    marginals = _log_sum_exp(_others(scores), axis=0) - math.log(len(scores) - 1)
    return (jnp.diagonal(scores) - marginals).mean()


def _pairs(scores: Array, name: str = "scores") -> Array:
    scores = square(name, scores)
    if len(scores) < 2:
        raise ValueError(f"{name} has shape {scores.shape}; expected at least two pairs")
    return scores


def _others(scores: Array) -> Array:
    """Keep the scores of pairs that were not drawn together."""
    return jnp.where(jnp.eye(len(scores), dtype=bool), -jnp.inf, scores)


def _log_mean_exp(others: Array) -> Scalar:
    n = len(others)
    return _log_sum_exp(others) - math.log(n * (n - 1))


def _log_sum_exp(x: Array, axis: int | None = None) -> Array:
    """Return the log-sum-exp, with slope 0 rather than NaN where all entries are minus infinity."""
    is_finite = ~(x == -jnp.inf).all(axis=axis, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(is_finite, x, 0), axis=axis, keepdims=True)
    return jnp.where(is_finite, total, -jnp.inf).squeeze(axis)
