"""Four shapes of covariance, each a pair of functions; users can define further pairs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from funcdl._typing import Array


class Shape(NamedTuple):
    r"""A shape of covariances: how the M-step estimates them and the E-step evaluates them.

    Attributes:
        estimate: ``estimate(x, r, counts, means) -> (c, d, d)`` for rows ``(n, d)``, their
            responsibilities ``(c, n)``, the sums of these ``(c,)``, and the means ``(c, d)``.
        measure: ``measure(covariance, centered) -> (squares, log_volume)``: the squared lengths
            :math:`(x - \mu)^\top \Sigma^{-1} (x - \mu)` of rows ``(n, d)``, and
            :math:`\frac12 \log \det \Sigma`.
    """

    estimate: Callable
    measure: Callable


def by_cholesky(covariance: Array, centered: Array) -> tuple[Array, Array]:
    """Return the squared lengths of rows and the log-volume for any covariance."""
    factor = jnp.linalg.cholesky(covariance)
    # inverted once, because a product with all rows is faster than a triangular solve
    whiten = solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True).T
    z = jnp.matmul(centered, whiten, precision="highest")
    return (z * z).sum(axis=1), jnp.log(jnp.diagonal(factor)).sum()


def _by_variances(covariance: Array, centered: Array) -> tuple[Array, Array]:
    variances = jnp.diagonal(covariance)
    return centered**2 @ (1 / variances), 0.5 * jnp.log(variances).sum()


def _full(x: Array, r: Array, counts: Array, means: Array) -> Array:
    columns = x.T  # a product over the last axis is a quarter faster on a CPU

    def one(component):
        r, count, mean = component
        centered = columns - mean[:, None]
        return jnp.matmul(r[None] * centered, centered.T, precision="highest") / count

    # one by one: a third faster on a CPU than as a batch, and without an array of (c, n, d)
    return jax.lax.map(one, (r, counts, means))


def _tied(x: Array, r: Array, counts: Array, means: Array) -> Array:
    pooled = jnp.tensordot(counts / counts.sum(), _full(x, r, counts, means), axes=1)
    return jnp.broadcast_to(pooled[None], (len(counts), *pooled.shape))


def _diagonal(x: Array, r: Array, counts: Array, means: Array) -> Array:
    return jax.vmap(jnp.diag)(_variances(x, r, counts, means))


def _spherical(x: Array, r: Array, counts: Array, means: Array) -> Array:
    variances = _variances(x, r, counts, means).mean(axis=1)
    return variances[:, None, None] * jnp.eye(x.shape[1], dtype=x.dtype)[None]


def _variances(x: Array, r: Array, counts: Array, means: Array) -> Array:
    def one(component):
        r, count, mean = component
        return r @ (x - mean[None]) ** 2 / count

    return jax.lax.map(one, (r, counts, means))


full = Shape(_full, by_cholesky)  # one covariance per component
diagonal = Shape(_diagonal, _by_variances)  # one variance per component and coordinate
tied = Shape(_tied, by_cholesky)  # one covariance for all components, of rows around their means
spherical = Shape(_spherical, _by_variances)  # one variance per component
