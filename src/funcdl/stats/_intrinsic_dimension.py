"""The intrinsic dimension of samples."""

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import power_of_two
from funcdl._typing import Array, Float
from funcdl.operators import Estimate

_ROWS = 256  # the number of rows whose distances to all others are held at a time


def intrinsic_dimension(x: Float[Array, "n d"]) -> Estimate:
    r"""Estimate the dimension of the manifold that samples lie on, from two neighbors of each.

    The ratio :math:`\mu` of the distances to the second and to the first neighbor has the density
    :math:`d\,\mu^{-d-1}` wherever the samples are locally uniform, so the unbiased estimate is
    :math:`(n - 1) / \sum_i \log \mu_i`. The estimate is too low for curved or noisy manifolds in
    high dimensions, where neighbors are far. Samples that occur twice do not count; where no other
    is left, or all distances are equal, as on a lattice, the result is NaN.

    Args:
        x: The samples, ``(n, d)``, n at least 4; n² distances are computed, a block of rows at a
            time.

    Returns:
        The dimension and its standard error. The error treats neighborhoods as independent and is
        therefore 10 to 30 % too low: for uniform samples, 83 to 91 % of the intervals of 2 standard
        errors hold the truth for d = 1 and 2 (n = 100 and 500), 44 to 74 % for d = 5, where the
        estimate is low by 1 to 2 standard errors.

    Raises:
        TypeError: If ``x`` is not of a real float dtype.
        ValueError: If ``x`` is not a matrix, holds NaN or fewer than 4 samples.

    Source: Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by
    a minimal neighborhood information" (2017).

    >>> from funcdl import linalg, stats
    >>> on_a_line = jax.random.normal(jax.random.key(0), (2000, 1)) * jnp.ones((1, 5))
    >>> stats.intrinsic_dimension(on_a_line).value.round(1).item()
    1.0
    """
    x = _check.real_array("x", x, 2)
    if x.shape[0] < 4:
        raise ValueError(f"x has {x.shape[0]} samples; expected at least 4")
    _check.finite("x", x)
    x = x - x.mean(axis=0, keepdims=True)
    return _two_nearest(x / power_of_two(x))


@jax.jit
def _two_nearest(x: Array) -> Estimate:
    square = (x**2).sum(axis=1)

    def log_ratio(row):
        point, index = row
        rough = square - 2 * x @ point
        _, near = jax.lax.top_k(-rough.at[index].set(jnp.inf), min(8, len(x) - 1))
        # by differences, since the rough distances of close points are dominated by rounding
        exact = jnp.sqrt(((x[near] - point[None]) ** 2).sum(axis=1))
        first, second = jnp.sort(exact)[:2]
        return jnp.where(first > 0, jnp.log(second / jnp.where(first > 0, first, 1)), jnp.nan)

    logs = jax.lax.map(log_ratio, (x, jnp.arange(len(x))), batch_size=_ROWS)
    is_valid = ~jnp.isnan(logs)
    count = is_valid.sum()
    total = jnp.where(is_valid, logs, 0).sum()
    is_defined = (count > 2) & (total > 0)
    dimension = jnp.where(is_defined, (count - 1) / jnp.where(is_defined, total, 1), jnp.nan)
    return Estimate(dimension, dimension / jnp.sqrt(jnp.where(is_defined, count - 2, 1)), 0)
