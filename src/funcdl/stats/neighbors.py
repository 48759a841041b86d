"""Entropy and mutual information of data alone, from the distances of nearest neighbors.

Distances are those of the largest coordinate. Time grows with n², memory with n: rows are taken in
blocks. Estimates rest on rows drawn independently and a density that is smooth between neighbors.

Standard errors are those of a mean of n independent terms. The terms share neighbors, so they are
low, the more the larger k and d. They leave the bias out, which grows with the dimension and with
the mutual information, and falls with n. Of Gaussians, n = 100 to 500 and k = 1 to 5, by how much
they are low, and how many intervals of 2 of them hold the truth (and the estimate's own mean):

- entropy: d = 1 and 2 5 to 20 %, 85 to 94 % (88 to 93); d = 5 10 to 30 %, 70 to 88 % (81 to 92).
- mutual information of numbers: 11 to 34 %, 80 to 93 % (79 to 93); of pairs of two coordinates: 15
  to 41 %, 50 to 90 % (71 to 91).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from funcdl import _tree
from funcdl._check import finite, integer_in, real_array
from funcdl._typing import Array
from funcdl.operators import Estimate, sample_mean

__all__ = ["entropy", "mutual_information"]

_BLOCK = 2**20  # distances that are held at once


def entropy(x: Array, k: int = 3) -> Estimate:
    r"""Estimate the differential entropy by Kozachenko and Leonenko.

    .. math::
        H = \psi(n) - \psi(k) + \frac dn \sum_i \log 2 \epsilon_i

    with :math:`\epsilon_i` the distance of row i to its k-th neighbor. Differentiable in x where
    neighbors do not change.

    Args:
        x: Data, ``(n, d)``.
        k: Which neighbor; more lower the variance and raise the bias.

    Returns:
        Nats, and the standard error. Minus infinity, and NaN for the error, where more than k rows
        coincide: a distribution with atoms has no density.

    Raises:
        ValueError: If x is not 2-D or not finite, or k is not in 1..n-1.
        TypeError: If x is not of floats.

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

    with :math:`n_i^x` the rows whose x is closer to that of row i than its k-th neighbor in
    :math:`(x, y)` is. Scale x and y to comparable spread before: the mutual information does not
    depend on it, the estimate does. Made of counts, its derivative is 0.

    Args:
        x: Data, ``(n, d)``.
        y: Of the same rows, ``(n, e)``.
        k: Which neighbor; more lower the variance and raise the bias.

    Returns:
        Nats, negative within its error where x and y are independent, and the standard error.
        Repeated values bias it: break ties by noise that is small against the distances.

    Raises:
        ValueError: If x or y is not 2-D or not finite, they differ in n, or k is not in 1..n-1.
        TypeError: If they are not of floats.

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
        apart = _distances(x, i)
        return jnp.argmax(apart == _radius(apart, k))

    # found without derivatives, measured with them
    other = x[_each_row(neighbor, n)]
    radius = jnp.abs(x - other).max(axis=1)
    apart = radius > 0
    logs = jnp.where(apart, jnp.log(2 * jnp.where(apart, radius, 1)), -jnp.inf)
    return sample_mean(_psi(n, x.dtype) - _psi(k, x.dtype) + d * logs)


@partial(jax.jit, static_argnums=2)
def _mutual_information(x: Array, y: Array, k: int) -> Estimate:
    def counts(i):
        apart_x, apart_y = _distances(x, i), _distances(y, i)
        radius = _radius(jnp.maximum(apart_x, apart_y), k)
        return (apart_x < radius).sum(), (apart_y < radius).sum(), radius

    n, dtype = len(x), jnp.promote_types(x.dtype, y.dtype)
    near_x, near_y, radius = _each_row(counts, n)
    terms = _psi(near_x + 1, dtype) + _psi(near_y + 1, dtype)
    found = sample_mean(_psi(k, dtype) + _psi(n, dtype) - terms)
    # a value that occurs more than k times has no k-th distance to measure by
    return found._replace(stderr=jnp.where((radius > 0).all(), found.stderr, jnp.nan))


def _each_row(f, n: int):
    """Apply f to the number of every row, a block of rows at once."""
    return jax.lax.map(f, jnp.arange(n), batch_size=min(n, max(1, _BLOCK // n)))


def _distances(x: Array, i) -> Array:
    """Measure how far the other rows are from row i, ``(n,)``; it is no neighbor of its own."""
    x = jax.lax.stop_gradient(x)
    return jnp.abs(x - x[i][None]).max(axis=1).at[i].set(jnp.inf)


def _radius(apart: Array, k: int) -> Array:
    """Find the k-th smallest distance; for a small k passes over all are faster than a sort."""

    def next_larger(_, radius):
        beyond = jnp.where(apart > radius, apart, jnp.inf).min()
        return jnp.where((apart <= radius).sum() < k, beyond, radius)

    return jax.lax.fori_loop(0, k, next_larger, jnp.asarray(-1, apart.dtype))


def _psi(count, dtype) -> Array:
    return digamma(jnp.asarray(count, dtype))


def _data(name: str, x) -> Array:
    x = real_array(name, x, 2)
    finite(name, x)
    return x.astype(_tree.wide(x.dtype))
