"""Entropies of Gaussians in closed form, as sums of non-negative terms."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from funcdl import _tree
from funcdl._check import integer_in
from funcdl._typing import Array, Scalar
from funcdl.stats._exp_excess import excess
from funcdl.stats._fitting.gaussian_params import Gaussian, checked
from funcdl.stats._gaussian_algebra import marginal


def entropy(params: Gaussian) -> Scalar:
    r"""Evaluate the differential entropy, :math:`\tfrac12 \log\det(2 \pi e\, \Sigma)`.

    Args:
        params: The mean and covariance.

    Returns:
        The entropy in nats, negative where the covariance is small; NaN where it is not positive
        definite.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If they are not of a float dtype.

    Source: Cover and Thomas, "Elements of information theory" (2006), theorem 8.4.1.

    >>> entropy(Gaussian(jnp.zeros(1), jnp.eye(1))).round(4).item()  # log(2 pi e) / 2
    1.4189
    """
    mean, covariance = checked(params)
    d = len(mean)
    return 0.5 * d * (1 + math.log(2 * math.pi)) + _log_det_half(jnp.linalg.cholesky(covariance))


def cross_entropy(p: Gaussian, q: Gaussian) -> Scalar:
    r"""Evaluate the cross-entropy :math:`-E_p[\log q(x)]`, the entropy of p plus ``kl(p, q)``.

    Args:
        p: The distribution that x is drawn from.
        q: The approximation of p.

    Returns:
        The cross-entropy in nats; NaN where a covariance is not positive definite.

    Raises:
        ValueError: If the shapes do not match, or p and q differ in d.
        TypeError: If they are not of a float dtype.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 5.4.

    >>> unit = Gaussian(jnp.zeros(1), jnp.eye(1))
    >>> cross_entropy(unit, Gaussian(jnp.ones(1), jnp.eye(1))).round(4).item()
    1.9189
    """
    factor, ratio, shift = _compared(p, q)
    squares = _tree.dot(ratio, ratio) + _tree.dot(shift, shift)
    return 0.5 * (squares + len(shift) * math.log(2 * math.pi)) + _log_det_half(factor)


def kl(p: Gaussian, q: Gaussian) -> Scalar:
    r"""Evaluate the Kullback-Leibler divergence :math:`E_p[\log p(x) - \log q(x)]`.

    .. math::
        \tfrac12 \left( \sum_{i > j} M_{ij}^2 + \sum_i (M_{ii}^2 - 1 - 2 \log M_{ii})
        + \left\|L_q^{-1}(\mu_q - \mu_p)\right\|^2 \right), \qquad M = L_q^{-1} L_p

    All terms are non-negative, so nothing cancels where p and q are nearly equal.

    Args:
        p: The distribution that x is drawn from.
        q: The approximation of p.

    Returns:
        The divergence in nats, non-negative; NaN where a covariance is not positive definite.

    Raises:
        ValueError: If the shapes do not match, or p and q differ in d.
        TypeError: If they are not of a float dtype.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 8.5.

    >>> unit = Gaussian(jnp.zeros(1), jnp.eye(1))
    >>> kl(unit, Gaussian(jnp.ones(1), jnp.eye(1))).item()
    0.5
    """
    _, ratio, shift = _compared(p, q)
    below = jnp.tril(ratio, -1)
    squares = _tree.dot(below, below) + _tree.dot(shift, shift)
    return 0.5 * (squares + excess(2 * jnp.log(jnp.diagonal(ratio))).sum())


def mutual_information(params: Gaussian, indices: Sequence[int]) -> Scalar:
    r"""Evaluate the mutual information between some of the coordinates and the others.

    .. math::
        I(x_I; x_J) = \tfrac12 \log \frac{\det\Sigma_{II} \det\Sigma_{JJ}}{\det\Sigma}
                    = -\tfrac12 \log\det(1 - C C^\top), \qquad
        C = L_I^{-1} \Sigma_{IJ} L_J^{-\top}

    The singular values of C are the canonical correlations. With the Cholesky factor K of
    :math:`1 - C C^\top` this is :math:`-\tfrac12 \sum_i \log(1 - (C C^\top)_{ii} -
    \sum_{j < i} K_{ij}^2)`, which is accurate where the correlations are small.

    Args:
        params: The mean and covariance.
        indices: The coordinates I, at least one, and not all.

    Returns:
        The mutual information in nats, non-negative; NaN where the covariance is not positive
        definite.

    Raises:
        ValueError: If an index is not in 0..d-1 or occurs twice, or I or J is empty.
        TypeError: If the indices are not integers known at trace time.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 8.5.

    >>> params = Gaussian(jnp.zeros(2), jnp.asarray([[1.0, 0.6], [0.6, 1.0]]))
    >>> mutual_information(params, [0]).round(4).item()  # -log(1 - 0.36) / 2
    0.2231
    """
    k, d = len(marginal(params, indices).mean), len(params.mean)
    integer_in("the number of indices", k, 1, d - 1)
    others = [i for i in range(d) if i not in list(indices)]
    covariance = marginal(params, [*indices, *others]).covariance
    blocks = covariance[:k, :k], covariance[k:, k:]
    first, second = (jnp.linalg.cholesky(block) for block in blocks)
    cross = solve_triangular(first, covariance[:k, k:], lower=True)
    cross = solve_triangular(second, cross.T, lower=True)
    explained = jnp.matmul(cross.T, cross, precision="highest")
    below = jnp.tril(jnp.linalg.cholesky(jnp.eye(k, dtype=cross.dtype) - explained), -1)
    return -0.5 * jnp.log1p(-jnp.diagonal(explained) - (below**2).sum(axis=1)).sum()


def _compared(p: Gaussian, q: Gaussian) -> tuple[Array, Array, Array]:
    """Return the factor of q and, in its units, the factor of p and the distance of the means."""
    p, q = checked(p), checked(q)
    if p.mean.shape != q.mean.shape:
        raise ValueError(f"p has d = {len(p.mean)} and q has d = {len(q.mean)}; expected the same")
    factor = jnp.linalg.cholesky(q.covariance)
    ratio = solve_triangular(factor, jnp.linalg.cholesky(p.covariance), lower=True)
    return factor, ratio, solve_triangular(factor, q.mean - p.mean, lower=True)


def _log_det_half(factor: Array) -> Scalar:
    return jnp.log(jnp.diagonal(factor)).sum()
