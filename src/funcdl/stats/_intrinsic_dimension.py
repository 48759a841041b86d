"""How many dimensions samples really have."""

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import power_of_two
from funcdl._typing import Array, Float
from funcdl.operators import Estimate

_ROWS = 256  # whose distances to all others are held together


def intrinsic_dimension(x: Float[Array, "n d"]) -> Estimate:
    r"""Estimate the dimension of the manifold that samples lie on, from two neighbors each.

    The ratio :math:`\mu` of the distances to the second and to the first neighbor has the density
    :math:`d\,\mu^{-d-1}` wherever the samples are locally uniform, so the unbiased estimate is
    :math:`(n - 1) / \sum_i \log \mu_i`. Curved or noisy manifolds read too low in high
    dimensions, where neighbors are far. Samples that have a double do not
    count; where none is left, or all distances are equal, as on a lattice, it is NaN.

    Args:
        x: ``(n, d)``, n at least 4; n² distances are computed, a block of rows at a time.

    Returns:
        The dimension and its standard error, which takes neighbourhoods as independent and so is
        10 to 30 % low: of intervals of 2 of them 83 to 91 % hold the truth of uniform samples for
        d = 1 and 2 (n = 100 and 500), 44 to 74 % for d = 5, where the estimate is low by 1 to 2 of
        them.

    Raises:
        TypeError: If ``x`` is not of real floats.
        ValueError: If ``x`` is no matrix, holds NaN or fewer than 4 samples.

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
        here, index = row
        rough = square - 2 * x @ here
        _, near = jax.lax.top_k(-rough.at[index].set(jnp.inf), min(8, len(x) - 1))
        # by differences: of close points the rough distances are rounding
        exact = jnp.sqrt(((x[near] - here[None]) ** 2).sum(axis=1))
        first, second = jnp.sort(exact)[:2]
        return jnp.where(first > 0, jnp.log(second / jnp.where(first > 0, first, 1)), jnp.nan)

    logs = jax.lax.map(log_ratio, (x, jnp.arange(len(x))), batch_size=_ROWS)
    sound = ~jnp.isnan(logs)
    count = sound.sum()
    total = jnp.where(sound, logs, 0).sum()
    told = (count > 2) & (total > 0)
    dimension = jnp.where(told, (count - 1) / jnp.where(told, total, 1), jnp.nan)
    return Estimate(dimension, dimension / jnp.sqrt(jnp.where(told, count - 2, 1)), 0)
