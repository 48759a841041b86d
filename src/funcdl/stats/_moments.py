"""Means and covariances of data that arrive in pieces."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import finite, not_negative, real_array, record
from funcdl._typing import Array


class Moments(NamedTuple):
    r"""A summary of rows: enough for mean and covariance, and mergeable with others.

    The mean is kept as two numbers, so that the means of pieces can be subtracted accurately where
    they are large relative to the spread. All zeros are the moments of no rows.

    Attributes:
        weight: The number of rows, a scalar; in float32, counts are exact up to 16 777 216.
        mean: The mean, ``(d,)``.
        rest: The rounding error of the mean, ``(d,)``.
        scatter: ``(d, d)``, :math:`\sum_i w_i (x_i - \mu)(x_i - \mu)^\top`.
    """

    weight: Array
    mean: Array
    rest: Array
    scatter: Array

    @property
    def covariance(self) -> Array:
        """The covariance ``(d, d)``, with the divisor ``weight - 1``; NaN below two rows."""
        freedom = self.weight - 1
        return jnp.where(freedom > 0, self.scatter / jnp.where(freedom > 0, freedom, 1), jnp.nan)

    @property
    def variance(self) -> Array:
        """The variances ``(d,)``, the diagonal of ``covariance``."""
        return jnp.diagonal(self.covariance)


def moments(x: Array, weights: Array | None = None) -> Moments:
    r"""Summarize rows, for the mean and covariance of these rows or together with later ones.

    For a stream, use ``merge(so_far, moments(chunk))`` in a ``jax.lax.scan`` that starts from the
    ``moments`` of no rows; pad a ragged tail with rows of weight 0.

    Args:
        x: The data, ``(n, d)``; n may be 0.
        weights: ``(n,)``, how often each row counts, non-negative; by default once.

    Returns:
        The moments, in at least float32, differentiable in x and the weights.

    Raises:
        ValueError: If x is not 2-D or not finite, or the weights do not match or are negative.
        TypeError: If x is not of a float dtype.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979).

    >>> moments(jnp.asarray([[1.0], [3.0]])).scatter.item()
    2.0
    """
    x = real_array("x", x, 2)
    finite("x", x)
    x = x.astype(_tree.wide(x.dtype))
    weights = jnp.ones(len(x), x.dtype) if weights is None else real_array("weights", weights, 1)
    if len(weights) != len(x):
        raise ValueError(f"weights has shape {weights.shape}; expected {(len(x),)}, one per row")
    not_negative("weights", weights)
    weights = weights.astype(x.dtype)
    weight = weights.sum()
    share = (weights / jnp.where(weight == 0, 1, weight))[:, None]
    first = (share * x).sum(axis=0)
    centered = x - first[None]
    rest = (share * centered).sum(axis=0)
    centered = centered - rest[None]
    scatter = jnp.matmul((weights[:, None] * centered).T, centered, precision="highest")
    return Moments(weight, *_two_sum(first, rest), (scatter + scatter.T) / 2)


def merge(a: Moments, b: Moments) -> Moments:
    r"""Merge the moments of two disjoint sets of rows.

    .. math::
        \mu = \mu_a + \tfrac{w_b}{w} \delta, \qquad
        S = S_a + S_b + \tfrac{w_a w_b}{w} \delta \delta^\top, \qquad
        \delta = \mu_b - \mu_a, \quad w = w_a + w_b

    Args:
        a: The moments of some rows.
        b: The moments of other rows, with the same d.

    Returns:
        The moments of all rows; the order only matters for rounding.

    Raises:
        ValueError: If they differ in d.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979).

    >>> merge(moments(jnp.asarray([[1.0]])), moments(jnp.asarray([[3.0]]))).covariance.item()
    2.0
    """
    for name, x in (("a", a), ("b", b)):
        record(name, x, Moments, "from stats.moments")
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"a has d = {len(a.mean)} and b has d = {len(b.mean)}; expected the same")
    # starting from the heavier part, so that merging with no rows returns it bit for bit
    swap = b.weight > a.weight
    a, b = (
        jax.tree.map(lambda x, y: jnp.where(swap, x, y), one, other)
        for one, other in ((b, a), (a, b))
    )
    weight = a.weight + b.weight
    share = b.weight / jnp.where(weight == 0, 1, weight)
    delta = (b.mean - a.mean) + (b.rest - a.rest)
    between = a.weight * share * delta[:, None] * delta[None]
    mean, rest = _two_sum(a.mean, a.rest + share * delta)
    return Moments(weight, mean, rest, a.scatter + b.scatter + between)


def covariance(x: Array, weights: Array | None = None) -> Array:
    r"""Estimate the covariance of data without bias.

    .. math::
        \Sigma = \frac{1}{n - 1} \sum_i (x_i - \mu)(x_i - \mu)^\top

    The data are centered before they are multiplied, so that a large mean costs no digits. For the
    divisor n, that of maximum likelihood, use ``gaussian.fit``; for data in pieces, ``moments`` and
    ``merge``.

    Args:
        x: The data, ``(n, d)``.
        weights: ``(n,)``, how often each row counts; the divisor is their sum minus 1.

    Returns:
        ``(d, d)``; NaN below two rows.

    Raises:
        ValueError: If x is not 2-D or not finite, or the weights do not match or are negative.
        TypeError: If x is not of a float dtype.

    >>> covariance(jnp.asarray([[-1.0], [3.0]])).item()
    8.0
    """
    return moments(x, weights).covariance


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Add two numbers: their sum, and its rounding error (Knuth, section 4.2.2)."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)
