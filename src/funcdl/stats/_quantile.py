"""Quantiles without a closed form."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import gammainc, gammaln

from funcdl._typing import Scalar


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def chi_square_quantile(probability: Scalar, dof: int) -> Scalar:
    r"""Compute the quantile of :math:`\chi^2`: the q with :math:`P(\chi^2_k \le q) = p`.

    It bisects log q. Differentiable in the probability to every order, by
    :math:`dq = dp / f(q)`.

    Args:
        probability: The probability, in 0..1.
        dof: The degrees of freedom k.

    Returns:
        The quantile q; 0 at 0, infinity at 1, NaN outside.

    >>> chi_square_quantile(jnp.asarray(0.5), 2).round(4).item()  # 2 log 2
    1.3863
    """
    info = jnp.finfo(probability.dtype)
    half = jnp.asarray(dof / 2, probability.dtype)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = gammainc(half, jnp.exp(middle) / 2) < probability
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    zero = jnp.zeros_like(probability)
    bracket = zero + jnp.log(info.tiny), zero + jnp.log(8.0 * (dof + info.nmant))
    q = jnp.exp(sum(jax.lax.fori_loop(0, info.nmant + 10, halve, bracket)) / 2)
    q = jnp.where(probability == 0, 0, jnp.where(probability == 1, jnp.inf, q))
    return jnp.where((probability >= 0) & (probability <= 1), q, jnp.nan)


@chi_square_quantile.defjvp
def _chi_square_quantile_jvp(dof: int, primals: tuple, tangents: tuple) -> tuple:
    q = chi_square_quantile(*primals, dof)
    half = dof / 2
    log_pdf = (half - 1) * jnp.log(q / 2) - q / 2 - gammaln(jnp.asarray(half, q.dtype))
    return q, tangents[0] * 2 * jnp.exp(-log_pdf)
