"""Mixtures of Gaussians: densities, and their fit by EM with four shapes of covariance."""

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from funcdl._check import check_key, real_array
from funcdl._typing import Array, Key, Scalar
from funcdl.stats import gaussian
from funcdl.stats._fitting.covariances import Shape, diagonal, full, spherical, tied
from funcdl.stats._fitting.em_iteration import Mixture
from funcdl.stats._mixture_fit import Fit, best, checked, em, em_step, fit, start

__all__ = [
    "Fit",
    "Mixture",
    "Shape",
    "best",
    "diagonal",
    "em",
    "em_step",
    "fit",
    "full",
    "log_prob",
    "pdf",
    "responsibilities",
    "sample",
    "spherical",
    "start",
    "tied",
]


def log_prob(params: Mixture, x: Array) -> Scalar:
    r"""Evaluate the log-density at one point, :math:`\log \sum_k \pi_k N(x; \mu_k, \Sigma_k)`.

    Args:
        params: The mixture.
        x: The point, ``(d,)``.

    Returns:
        A scalar; NaN where a covariance is not positive definite.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If they are not of a float dtype.

    Source: Bishop, "Pattern recognition and machine learning" (2006), section 9.2.

    >>> one = gaussian.Gaussian(jnp.zeros((2, 1)), jnp.ones((2, 1, 1)))
    >>> log_prob(Mixture(jnp.zeros(2), one), jnp.zeros(1)).round(4).item()  # as one Gaussian
    -0.9189
    """
    return logsumexp(_joint(params, x))


def pdf(params: Mixture, x: Array) -> Scalar:
    """Evaluate the density at one point, the exponential of ``log_prob``.

    Args:
        params: The mixture.
        x: The point, ``(d,)``.

    Returns:
        A scalar.
    """
    return jnp.exp(log_prob(params, x))


def responsibilities(params: Mixture, x: Array) -> Array:
    r"""Evaluate the probability that a point comes from each component, :math:`p(k \mid x)`.

    Args:
        params: The mixture.
        x: The point, ``(d,)``.

    Returns:
        ``(c,)``, probabilities.

    Raises:
        ValueError: If the shapes do not match.
    """
    return jax.nn.softmax(_joint(params, x))


def sample(key: Key[Array, ""], params: Mixture) -> Array:
    """Draw one point: first a component, then a point from it.

    Args:
        key: The random key; split it and use ``jax.vmap`` for many.
        params: The mixture.

    Returns:
        ``(d,)``, differentiable in means and covariances.

    Raises:
        TypeError: If the key is not typed.
    """
    check_key(key)
    params = checked(params)
    key_component, key_point = jax.random.split(key)
    k = jax.random.categorical(key_component, params.log_weights)
    return gaussian.sample(key_point, jax.tree.map(lambda leaf: leaf[k], params.components))


def _joint(params: Mixture, x: Array) -> Array:
    """Evaluate the joint log-density of x and each component, ``(c,)``."""
    log_weights, components = checked(params)
    densities = jax.vmap(gaussian.log_prob, in_axes=(0, None))(components, real_array("x", x, 1))
    return jax.nn.log_softmax(log_weights) + densities
