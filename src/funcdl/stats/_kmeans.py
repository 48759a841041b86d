"""k-means: greedy k-means++ and Lloyd's iteration, inside jit."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import check_key, finite, integer_in, not_negative, real_array
from funcdl._typing import Array, ArrayLike, Key
from funcdl.stats._fitting import lloyd_iteration


class KMeans(NamedTuple):
    """Clusters found by k-means.

    Attributes:
        centers: The centers, ``(c, d)``.
        labels: ``(n,)``, the index of the nearest center of each row.
        inertia: The sum of the squared distances of the rows to their centers.
        empty: ``(c,)``, whether a cluster has no row: x has fewer than c different rows, or the
            steps ran out.
        steps: The number of steps of Lloyd's iteration.
        converged: Whether the centers stopped moving.
    """

    centers: Array
    labels: Array
    inertia: Array
    empty: Array
    steps: Array
    converged: Array


def kmeans(
    key: Key[Array, ""],
    x: Array,
    c: int,
    *,
    tol: float | Array = 1e-4,
    max_steps: int | Array = 300,
) -> KMeans:
    """Compute c clusters, starting with ``kmeans_plus_plus`` and continuing with ``lloyd``.

    The result is a local minimum; for restarts, ``jax.vmap`` it over keys and take the least
    inertia.

    Args:
        key: The random key for the start.
        x: The data, ``(n, d)``.
        c: The number of clusters, ``1 <= c <= n``.
        tol: The tolerance, as in ``lloyd``.
        max_steps: The largest number of steps.

    Returns:
        Centers, labels, inertia; which clusters are empty, and whether it converged.

    Raises:
        ValueError: If x is not 2-D or not finite, c is not in 1..n, or ``tol`` is negative.
        TypeError: If x is not of a float dtype, c is not an integer or the key is not typed.

    >>> x = jnp.asarray([[0.0], [1.0], [10.0], [11.0]])
    >>> kmeans(jax.random.key(0), x, 2).inertia.item()
    1.0
    """
    centers = kmeans_plus_plus(key, x, c)
    return lloyd(x, centers, tol=tol, max_steps=max_steps)


def lloyd(
    x: Array, centers: Array, *, tol: float | Array = 1e-4, max_steps: int | Array = 300
) -> KMeans:
    r"""Move centers to the means of their nearest rows until they stop moving.

    A step lowers :math:`\sum_i \min_k \|x_i - c_k\|^2`. A center without rows moves to the row that
    is farthest from its own center, so no cluster stays empty while rows differ from their centers.
    Centers and inertia are differentiable in x: labels are piecewise constant, so the derivative of
    a center is exactly the mean of those of its rows.

    Args:
        x: The data, ``(n, d)``.
        centers: The initial centers, ``(c, d)``.
        tol: Stop when the squared shift of all centers is at most ``tol`` times the mean variance
            of a column; with 0, when no label changes.
        max_steps: The largest number of steps.

    Returns:
        Centers, labels, inertia; which clusters are empty, and whether it converged.

    Raises:
        ValueError: If x or centers are not 2-D, not finite or do not match, or ``tol`` is negative.
        TypeError: If they are not of a float dtype.

    Source: Lloyd, "Least squares quantization in PCM", IEEE Trans. Information Theory 28 (1982).
    """
    x = _data(x)
    centers = real_array("centers", centers, 2).astype(x.dtype)
    if centers.shape[1] != x.shape[1]:
        raise ValueError(
            f"centers has shape {centers.shape}; expected (c, {x.shape[1]}), since x has "
            f"shape {x.shape}"
        )
    integer_in("the number of centers", len(centers), 1, len(x))
    finite("centers", centers)
    not_negative("tol", tol)
    return _kmeans(x, centers, jnp.asarray(tol, x.dtype), max_steps)


def kmeans_plus_plus(key: Key[Array, ""], x: Array, c: int) -> Array:
    r"""Choose c rows that are far from each other, as a start for ``lloyd``.

    The first is drawn uniformly. Each further one is the best of :math:`2 + \log c` rows drawn with
    a probability proportional to the squared distance to the nearest center chosen so far.

    Args:
        key: The random key.
        x: The data, ``(n, d)``.
        c: The number of centers, ``1 <= c <= n``.

    Returns:
        ``(c, d)``, rows of x; with repetitions where x has fewer than c different rows.

    Raises:
        ValueError: If x is not 2-D or not finite, or c is not in 1..n.
        TypeError: If x is not of a float dtype, c is not an integer or the key is not typed.

    Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA (2007).
    """
    check_key(key)
    x = _data(x)
    return _plus_plus(key, x, integer_in("c", c, 1, len(x)))


def _data(x: Array) -> Array:
    x = real_array("x", x, 2)
    finite("x", x)
    return x


@jax.jit
def _kmeans(x: Array, centers: Array, tol: ArrayLike, max_steps: ArrayLike) -> KMeans:
    unit = _unit(x)  # in this unit, squares stay in range
    x, centers = x / unit, centers / unit
    origin = jax.lax.stop_gradient(x.mean(axis=0))
    end = lloyd_iteration.iterate(x, centers, origin, (tol, max_steps))
    centers = end.centers
    labels = lloyd_iteration.assign(x, centers, origin)
    counts = jnp.zeros(len(centers), int).at[labels].add(1)
    return KMeans(
        centers=unit * centers,
        labels=labels,
        inertia=unit * unit * lloyd_iteration.inertia(x, centers, labels),
        empty=counts == 0,
        steps=end.steps,
        converged=(end.shift <= lloyd_iteration.threshold(x, origin, tol)) & ~end.moves.any(),
    )


# The state is the squared distance of every row to its nearest chosen center, the weight with
# which the next one is drawn. One cumulative sum serves all trials of a step, and of these the row
# that lowers the sum of distances most is kept: the greedy variant that Arthur and Vassilvitskii
# (2007) mention. A step costs one product of the trials with the data. Distances come from |x|² -
# 2 x c + |c|², measured from the mean of the data, because a common offset would cost digits;
# rounding can make them negative, so they are cut off at 0.
@partial(jax.jit, static_argnums=2)
def _plus_plus(key: Key[Array, ""], x: Array, c: int) -> Array:
    n, trials = len(x), 2 + int(math.log(c))
    rows, x = x, (x - x.mean(axis=0)[None]) / _unit(x)
    squares = (x * x).sum(axis=1)
    key_first, key_others = jax.random.split(key)
    first = jax.random.randint(key_first, (), 0, n)

    def distances(chosen):  # (t,) to (t, n)
        rows = x[chosen]
        product = jnp.matmul(rows, x.T, precision="highest")
        return jnp.maximum(squares[None] - 2 * product + squares[chosen][:, None], 0)

    def choose(nearest, key):
        reach = jnp.cumsum(nearest)
        draws = jax.random.uniform(key, (trials,), x.dtype) * reach[-1]
        drawn = jnp.minimum(jnp.searchsorted(reach, draws), n - 1)
        nearest_with = jnp.minimum(nearest[None], distances(drawn))
        best = jnp.argmin(nearest_with.sum(axis=1))
        return nearest_with[best], drawn[best]

    keys = jax.random.split(key_others, c - 1)
    _, others = jax.lax.scan(choose, distances(first[None])[0], keys)
    return rows[jnp.concatenate([first[None], others])]


def _unit(x: Array) -> Array:
    """Return the power of two above all entries, a unit in which they are exact and at most 1."""
    peak = jax.lax.stop_gradient(jnp.abs(x).max())
    return jnp.exp2(jnp.ceil(jnp.log2(jnp.where(peak > 0, peak, 1))))
