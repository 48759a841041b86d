"""The Gaussian distribution of a vector."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from funcdl import _tree
from funcdl._check import check_key, finite, not_negative, real_array
from funcdl._typing import Array, Key, Scalar
from funcdl.stats._fitting.gaussian_params import Gaussian, checked, point
from funcdl.stats._gaussian_algebra import (
    Ellipsoid,
    Product,
    conditional,
    ellipsoid,
    marginal,
    product,
)
from funcdl.stats._gaussian_information import cross_entropy, entropy, kl, mutual_information

__all__ = [
    "Ellipsoid",
    "Gaussian",
    "Product",
    "cdf",
    "conditional",
    "cross_entropy",
    "ellipsoid",
    "entropy",
    "fit",
    "kl",
    "log_prob",
    "marginal",
    "mutual_information",
    "pdf",
    "product",
    "sample",
]


def log_prob(params: Gaussian, x: Array) -> Scalar:
    r"""Evaluate the log-density at one point.

    .. math::
        \log p(x) = -\tfrac12 \left\|L^{-1}(x - \mu)\right\|^2 - \sum_i \log L_{ii}
                    - \tfrac d2 \log 2\pi, \qquad \Sigma = L L^\top

    ``jax.tree_util.Partial(gaussian.log_prob, params)`` is a density.

    Args:
        params: The mean and covariance.
        x: The point, ``(d,)``.

    Returns:
        A scalar; NaN where the covariance is not positive definite.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If they are not of a float dtype.

    Source: Bishop, "Pattern recognition and machine learning" (2006), section 2.3.

    >>> params = Gaussian(jnp.zeros(2), jnp.eye(2))
    >>> log_prob(params, jnp.zeros(2)).round(4).item()  # -log 2 pi
    -1.8379
    """
    mean, covariance = checked(params)
    x = point(x, mean)
    factor = jnp.linalg.cholesky(covariance)
    z = solve_triangular(factor, x - mean, lower=True)
    log_det = jnp.log(jnp.diagonal(factor)).sum()
    return -0.5 * _tree.dot(z, z) - log_det - 0.5 * len(mean) * math.log(2 * math.pi)


def pdf(params: Gaussian, x: Array) -> Scalar:
    """Evaluate the density at one point, the exponential of ``log_prob``.

    Args:
        params: The mean and covariance.
        x: The point, ``(d,)``.

    Returns:
        A scalar; NaN where the covariance is not positive definite.
    """
    return jnp.exp(log_prob(params, x))


def cdf(params: Gaussian, x: Array) -> Scalar:
    r"""Evaluate the distribution function of one variable, :math:`P(X \le x)`.

    Args:
        params: The mean and covariance with d = 1; only this case has a closed form.
        x: The point, ``(1,)``.

    Returns:
        A scalar; NaN where the variance is not positive.

    Raises:
        ValueError: If d is not 1, or the shapes do not fit.

    >>> cdf(Gaussian(jnp.zeros(1), jnp.eye(1)), jnp.zeros(1)).item()
    0.5
    """
    mean, covariance = checked(params)
    x = point(x, mean)
    if len(mean) != 1:
        raise ValueError(f"params has d = {len(mean)}; the cdf has a closed form only for d = 1")
    return jax.scipy.stats.norm.cdf((x - mean)[0] / jnp.linalg.cholesky(covariance)[0, 0])


def sample(key: Key[Array, ""], params: Gaussian) -> Array:
    r"""Draw one point, :math:`\mu + L z`.

    Args:
        key: The random key; split it and use ``jax.vmap`` for many.
        params: The mean and covariance.

    Returns:
        ``(d,)``, differentiable in the parameters.

    Raises:
        TypeError: If the key is not typed.
    """
    check_key(key)
    mean, covariance = checked(params)
    z = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.linalg.cholesky(covariance) @ z


def fit(x: Array, weights: Array | None = None) -> Gaussian:
    r"""Estimate mean and covariance by maximum likelihood.

    .. math::
        \mu = \sum_i w_i x_i, \qquad \Sigma = \sum_i w_i (x_i - \mu)(x_i - \mu)^\top,
        \qquad \sum_i w_i = 1

    The data are centered before they are multiplied, so that a large mean costs no digits. The
    covariance is singular, and densities NaN, where the points with weight do not span the space.

    Args:
        x: The data, ``(n, d)``.
        weights: ``(n,)``, non-negative, normalized here; by default equal.

    Returns:
        Mean and covariance; NaN where all weights are 0.

    Raises:
        ValueError: If x is not 2-D or not finite, has no rows, or the weights do not match.
        TypeError: If x is not of a float dtype.

    >>> fit(jnp.asarray([[-1.0], [3.0]])).covariance.item()
    4.0
    """
    x = real_array("x", x, 2)
    finite("x", x)
    n = len(x)
    if n < 1:
        raise ValueError(f"x has shape {x.shape}; expected at least one row")
    weights = jnp.ones(n, x.dtype) if weights is None else real_array("weights", weights, 1)
    if weights.shape != (n,):
        raise ValueError(f"weights has shape {weights.shape}; expected ({n},), one per row")
    not_negative("weights", weights)
    share = (weights / weights.sum())[:, None]
    first = (share * x).sum(axis=0, keepdims=True)
    centered = x - first
    # the rounding error of the mean matters where the mean is large
    correction = (share * centered).sum(axis=0, keepdims=True)
    centered = centered - correction
    covariance = jnp.matmul((share * centered).T, centered, precision="highest")
    return Gaussian((first + correction)[0], (covariance + covariance.T) / 2)
