"""Bayes' rule for finitely many hypotheses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._check import concrete, real_array
from funcdl._typing import Array


class Posterior(NamedTuple):
    """The probabilities of hypotheses after an observation.

    Attributes:
        log_probs: ``(h,)``, normalized; NaN where the observation is impossible under all of them.
        log_evidence: The log-probability of the observation; minus infinity if it is impossible.
    """

    log_probs: Array
    log_evidence: Array


def bayes(log_prior: Array, log_likelihood: Array) -> Posterior:
    r"""Update the probabilities of hypotheses by an observation.

    .. math::
        p(h \mid x) = \frac{p(x \mid h)\, p(h)}{p(x)}, \qquad p(x) = \sum_h p(x \mid h)\, p(h)

    For observations that are independent given h, use the posterior of one as the prior of the
    next, or the sum of their log-likelihoods.

    Args:
        log_prior: ``(h,)``, with exponentials that sum to 1; minus infinity excludes a hypothesis.
        log_likelihood: ``(h,)``, the log-probability of the observation under each hypothesis;
            minus infinity means that it is impossible.

    Returns:
        The log-probabilities given the observation, and the log-probability of the observation.

    Raises:
        ValueError: If the prior does not sum to 1, or the shapes differ.
        TypeError: If they are not of a float dtype.

    >>> prior, likelihood = jnp.asarray([0.01, 0.99]), jnp.asarray([0.9, 0.1])
    >>> jnp.exp(bayes(jnp.log(prior), jnp.log(likelihood)).log_probs).round(4).tolist()
    [0.0833, 0.9167]
    """
    log_prior = real_array("log_prior", log_prior, 1)
    log_likelihood = real_array("log_likelihood", log_likelihood, 1)
    if log_prior.shape != log_likelihood.shape:
        raise ValueError(
            f"log_prior has shape {log_prior.shape}, log_likelihood {log_likelihood.shape}; "
            "expected one number of each per hypothesis"
        )
    values = concrete(log_prior)
    if values is not None:
        total = np.exp(values.astype(float)).sum()
        if not abs(total - 1) <= 100 * float(jnp.finfo(log_prior.dtype).eps):
            raise ValueError(
                f"log_prior sums to a probability of {total:.6g}; expected 1, so "
                "normalize it with jax.nn.log_softmax"
            )
    # an excluded hypothesis remains excluded, whatever its likelihood
    excluded = jnp.isneginf(log_prior)
    joint = jnp.where(excluded, -jnp.inf, log_prior + jnp.where(excluded, 0, log_likelihood))
    return Posterior(jax.nn.log_softmax(joint), jax.nn.logsumexp(joint))
