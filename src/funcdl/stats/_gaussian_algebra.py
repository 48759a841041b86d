"""The algebra of Gaussians: marginals, conditionals, products, and their ellipsoids."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from funcdl._check import concrete, real_array
from funcdl._typing import Array
from funcdl.linalg import eigh
from funcdl.stats._fitting.gaussian_params import Gaussian, checked
from funcdl.stats._quantile import chi_square_quantile


class Ellipsoid(NamedTuple):
    """The smallest region with a given probability.

    Attributes:
        center: The center, ``(d,)``.
        axes: ``(d, d)``, a unit vector in each column, the longest axis first.
        lengths: ``(d,)``, the lengths of the half axes.
    """

    center: Array
    axes: Array
    lengths: Array


class Product(NamedTuple):
    """A product of two densities.

    Attributes:
        density: The Gaussian that the product is proportional to.
        log_normalizer: The logarithm of the integral of the product.
    """

    density: Gaussian
    log_normalizer: Array


def marginal(params: Gaussian, indices: Sequence[int]) -> Gaussian:
    r"""Return the distribution of some coordinates, :math:`N(\mu_I, \Sigma_{II})`.

    Args:
        params: The mean and covariance.
        indices: The coordinates to keep, in the order of the result.

    Returns:
        The distribution of these coordinates.

    Raises:
        ValueError: If an index is not in 0..d-1 or occurs twice.
        TypeError: If the indices are not integers known at trace time.

    >>> params = Gaussian(jnp.arange(3.0), jnp.diag(jnp.arange(1.0, 4.0)))
    >>> marginal(params, [2]).covariance.tolist()
    [[3.0]]
    """
    mean, covariance = checked(params)
    kept = _coordinates(indices, len(mean))
    return Gaussian(mean[kept], covariance[jnp.ix_(kept, kept)])


def conditional(params: Gaussian, indices: Sequence[int], values: Array) -> Gaussian:
    r"""Fix some of the coordinates, :math:`x_I = v`, and return the distribution of the others.

    .. math::
        \mu_J + \Sigma_{JI} \Sigma_{II}^{-1} (v - \mu_I), \qquad
        \Sigma_{JJ} - \Sigma_{JI} \Sigma_{II}^{-1} \Sigma_{IJ}

    Args:
        params: The mean and covariance.
        indices: The coordinates whose values are known.
        values: The values, in the same order.

    Returns:
        The distribution of the remaining coordinates, in their order.

    Raises:
        ValueError: If an index is not in 0..d-1 or occurs twice, or there are not as many values.
        TypeError: If the indices are not integers known at trace time.

    Source: Bishop, "Pattern recognition and machine learning" (2006), section 2.3.1.

    >>> params = Gaussian(jnp.zeros(2), jnp.asarray([[2.0, 1.0], [1.0, 2.0]]))
    >>> mean, covariance = conditional(params, [1], jnp.asarray([4.0]))
    >>> mean.round(4).item(), covariance.round(4).item()
    (2.0, 1.5)
    """
    mean, covariance = checked(params)
    known = _coordinates(indices, len(mean))
    unknown = np.setdiff1d(np.arange(len(mean)), known)
    values = real_array("values", values, 1)
    if values.shape != known.shape:
        raise ValueError(f"values has shape {values.shape}; expected {known.shape}, like indices")
    factor = jnp.linalg.cholesky(covariance[jnp.ix_(known, known)])
    cross = solve_triangular(factor, covariance[jnp.ix_(known, unknown)], lower=True)
    deviation = solve_triangular(factor, values - mean[known], lower=True)
    explained = jnp.matmul(cross.T, cross, precision="highest")
    return Gaussian(
        mean[unknown] + jnp.matmul(cross.T, deviation, precision="highest"),
        covariance[jnp.ix_(unknown, unknown)] - explained,
    )


def product(a: Gaussian, b: Gaussian) -> Product:
    r"""Multiply two densities of the same variable.

    .. math::
        N(x; a, A)\, N(x; b, B) = N(a; b, A + B)\; N(x; c, C), \qquad
        C = A (A + B)^{-1} B

    Args:
        a: The first Gaussian.
        b: The second Gaussian, with the same d.

    Returns:
        The Gaussian :math:`N(c, C)` and the logarithm of :math:`N(a; b, A + B)`.

    Raises:
        ValueError: If they differ in d.

    Source: Petersen and Pedersen, "The matrix cookbook" (2012), section 8.1.8.

    >>> unit = Gaussian(jnp.zeros(1), jnp.eye(1))
    >>> product(unit, unit).density.covariance.round(4).item()
    0.5
    """
    a, b = checked(a), checked(b)
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"a has d = {len(a.mean)} and b has d = {len(b.mean)}; expected the same")
    factor = jnp.linalg.cholesky(a.covariance + b.covariance)
    u, v = (solve_triangular(factor, g.covariance, lower=True) for g in (a, b))
    z = solve_triangular(factor, b.mean - a.mean, lower=True)
    # a product rather than a difference, so that nothing cancels where one is much wider
    covariance = jnp.matmul(u.T, v, precision="highest")
    mean = a.mean + jnp.matmul(u.T, z, precision="highest")
    log_det = jnp.log(jnp.diagonal(factor)).sum()
    log_normalizer = -0.5 * (z @ z) - log_det - 0.5 * len(z) * math.log(2 * math.pi)
    return Product(Gaussian(mean, (covariance + covariance.T) / 2), log_normalizer)


def ellipsoid(params: Gaussian, probability: float | Array) -> Ellipsoid:
    r"""Compute the smallest region that has a given probability.

    .. math::
        \{x : (x - \mu)^\top \Sigma^{-1} (x - \mu) \le q\}, \qquad P(\chi^2_d \le q) = p

    Axes are eigenvectors of the covariance, lengths are :math:`\sqrt{q \lambda_i}`. The sign of an
    axis is arbitrary; where two lengths are equal, axes have no derivative.

    Args:
        params: The mean and covariance.
        probability: The probability, in 0..1.

    Returns:
        Center, axes as columns, and lengths, the longest first.

    Raises:
        ValueError: If the probability is not in 0..1.

    >>> params = Gaussian(jnp.zeros(2), jnp.diag(jnp.asarray([1.0, 4.0])))
    >>> ellipsoid(params, 0.5).lengths.round(4).tolist()  # sqrt(2 log 2) times 2 and 1
    [2.3548, 1.1774]
    """
    mean, covariance = checked(params)
    p = jnp.asarray(probability, mean.dtype)
    known = concrete(p)
    if known is not None and not (0 <= known <= 1):
        raise ValueError(f"probability is {probability}; expected a number in 0..1")
    values, vectors, _ = eigh(covariance)
    return Ellipsoid(mean, vectors, jnp.sqrt(chi_square_quantile(p, len(mean)) * values))


def _coordinates(indices: Sequence[int], d: int) -> np.ndarray:
    try:
        chosen = [operator.index(i) for i in indices]
    except TypeError:
        raise TypeError(
            f"indices is {indices!r}; expected integers known at trace time, such as a tuple"
        ) from None
    if not all(0 <= i < d for i in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"indices is {indices!r}; expected different integers in 0..{d - 1}")
    return np.asarray(chosen, int)
