"""Entropy and mutual information of data alone, from the distances of nearest neighbors.

Distances are measured by the largest coordinate. Time grows with n², memory with n: rows are
processed in blocks. The estimates assume rows that were drawn independently, and a density that is
smooth between neighbors.

Standard errors are those of a mean of n independent terms. The terms share neighbors, so the errors
are too low, more so for larger k and d. They do not include the bias, which grows with the
dimension and the mutual information, and falls with n. For Gaussians with n = 100 to 500 and k = 1
to 5, the errors are too low by the first number, and the intervals of 2 standard errors hold the
truth (and the estimate's own mean) as often as the second says:

- entropy: d = 1 and 2: 5 to 20 %, 85 to 94 % (88 to 93); d = 5: 10 to 30 %, 70 to 88 % (81 to 92).
- mutual information of numbers: 11 to 34 %, 80 to 93 % (79 to 93); of pairs of two coordinates: 15
  to 41 %, 50 to 90 % (71 to 91).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from funcdl import _tree
from funcdl._check import finite, integer_in, real_array
from funcdl._typing import Array, ArrayLike, DTypeLike
from funcdl.operators import Estimate, sample_mean

__all__ = ["entropy", "mutual_information"]

_BLOCK = 2**20  # the number of distances held at a time


def entropy(x: Array, k: int = 3) -> Estimate:
    r"""Estimate the differential entropy by Kozachenko and Leonenko.

    .. math::
        H = \psi(n) - \psi(k) + \frac dn \sum_i \log 2 \epsilon_i

    where :math:`\epsilon_i` is the distance of row i to its k-th neighbor. Differentiable in x
    where neighbors do not change.

    Args:
        x: The data, ``(n, d)``.
        k: The neighbor to use; a larger k lowers the variance and raises the bias.

    Returns:
        The entropy in nats, and its standard error. Minus infinity, with NaN as its error, where
        more than k rows coincide: a distribution with atoms has no density. NaN where the data are
        rounded: more than 1 in 20 rows have a k-th neighbor at the same distance as another one,
        or within 16 roundings of its own numbers. Subtract a common offset before rounding to
        float32, or add noise of the size of the rounding.

    Raises:
        ValueError: If x is not 2-D or not finite, or k is not in 1..n-1.
        TypeError: If x is not of a float dtype.

    Source: Kozachenko and Leonenko, "Sample estimate of the entropy of a random vector", Problems
    of Information Transmission 23 (1987); Kraskov et al. (2004), equation 20.

    >>> value, error, _ = entropy(4 * jax.random.uniform(jax.random.key(0), (500, 1)))
    >>> (jnp.abs(value - jnp.log(4.0)) < 3 * error).item()
    True
    """
    x = _data("x", x)
    return _entropy(x, integer_in("k", k, 1, len(x) - 1))


def mutual_information(x: Array, y: Array, k: int = 3) -> Estimate:
    r"""Estimate the mutual information by Kraskov, Stögbauer and Grassberger, algorithm 1.

    .. math::
        I = \psi(k) + \psi(n) - \frac1n \sum_i \psi(n_i^x + 1) + \psi(n_i^y + 1)

    where :math:`n_i^x` is the number of rows whose x is closer to that of row i than its k-th
    neighbor in :math:`(x, y)` is. Scale x and y to comparable spread first: the mutual information
    does not depend on it, but the estimate does. Its derivative is 0, since it depends on counts.

    Args:
        x: The data, ``(n, d)``.
        y: The other variable of the same rows, ``(n, e)``.
        k: The neighbor to use; a larger k lowers the variance and raises the bias.

    Returns:
        The mutual information in nats, negative within its error where x and y are independent, and
        its standard error. NaN where values are repeated or rounded: in x or y, the distance of
        the k-th neighbor of more than 1 in 20 rows is that of another row, or within 16 roundings
        of its own numbers. Break ties by noise that is small compared with the distances.

    Raises:
        ValueError: If x or y is not 2-D or not finite, they differ in n, or k is not in 1..n-1.
        TypeError: If they are not of a float dtype.

    Source: Kraskov, Stögbauer and Grassberger, "Estimating mutual information", Physical Review E
    69 (2004), equation 8.

    >>> x = jax.random.normal(jax.random.key(0), (500, 2))
    >>> value, error, _ = mutual_information(x[:, :1], 0.6 * x[:, :1] + 0.8 * x[:, 1:])
    >>> (jnp.abs(value + jnp.log(0.64) / 2) < 3 * error).item()
    True
    """
    x, y = _data("x", x), _data("y", y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows and y has {len(y)}; expected the same rows")
    return _mutual_information(x, y, integer_in("k", k, 1, len(x) - 1))


@partial(jax.jit, static_argnums=1)
def _entropy(x: Array, k: int) -> Estimate:
    n, d = x.shape

    def neighbor(i):
        distances = _distances(x, i)
        at_radius = distances == _radius(distances, k)
        return jnp.argmax(at_radius), at_radius.sum()

    # neighbors are searched without derivatives, and their distances computed with them
    nearest, ties = _each_row(neighbor, n)
    radius = jnp.abs(x - x[nearest]).max(axis=1)
    is_distinct = radius > 0
    logs = jnp.where(is_distinct, jnp.log(2 * jnp.where(is_distinct, radius, 1)), -jnp.inf)
    estimate = sample_mean(_psi(n, x.dtype) - _psi(k, x.dtype) + d * logs)
    return _unless(_are_rounded(radius, ties, x) & is_distinct.all(), estimate)


@partial(jax.jit, static_argnums=2)
def _mutual_information(x: Array, y: Array, k: int) -> Estimate:
    def counts(i):
        distance_x, distance_y = _distances(x, i), _distances(y, i)
        radius = _radius(jnp.maximum(distance_x, distance_y), k)
        ties = (distance_x == radius).sum() + (distance_y == radius).sum()
        return (distance_x < radius).sum(), (distance_y < radius).sum(), radius, ties

    n, dtype = len(x), jnp.promote_types(x.dtype, y.dtype)
    near_x, near_y, radius, ties = _each_row(counts, n)
    terms = _psi(near_x + 1, dtype) + _psi(near_y + 1, dtype)
    estimate = sample_mean(_psi(k, dtype) + _psi(n, dtype) - terms)
    are_rounded = _are_rounded(radius, ties, x) | _are_rounded(radius, ties, y)
    return _unless(are_rounded, estimate)


def _are_rounded(radius: Array, ties: Array, x: Array) -> Array:
    """Tell whether distances are those of rounded or repeated values; the limit allows for luck."""
    noise = 16 * jnp.finfo(x.dtype).eps * jnp.abs(x).max(axis=1)
    return ((ties > 1) | (radius <= noise)).mean() > 0.05


def _unless(is_wrong: Array, estimate: Estimate) -> Estimate:
    """Return an estimate, NaN if it would be wrong."""
    value, stderr = (jnp.where(is_wrong, jnp.nan, part) for part in estimate[:2])
    return estimate._replace(value=value, stderr=stderr)


def _each_row(f: Callable, n: int) -> Any:
    """Apply f to the index of every row, a block of rows at a time."""
    return jax.lax.map(f, jnp.arange(n), batch_size=min(n, max(1, _BLOCK // n)))


def _distances(x: Array, i: ArrayLike) -> Array:
    """Return the distances of all rows to row i, ``(n,)``, with infinity for row i itself."""
    x = jax.lax.stop_gradient(x)
    return jnp.abs(x - x[i][None]).max(axis=1).at[i].set(jnp.inf)


def _radius(distances: Array, k: int) -> Array:
    """Return the k-th smallest distance; for a small k, passes over all are faster than a sort."""

    def next_larger(_, radius):
        beyond = jnp.where(distances > radius, distances, jnp.inf).min()
        return jnp.where((distances <= radius).sum() < k, beyond, radius)

    return jax.lax.fori_loop(0, k, next_larger, jnp.asarray(-1, distances.dtype))


def _psi(count: ArrayLike, dtype: DTypeLike) -> Array:
    return digamma(jnp.asarray(count, dtype))


def _data(name: str, x: Array) -> Array:
    x = real_array(name, x, 2)
    finite(name, x)
    return x.astype(_tree.wide(x.dtype))
