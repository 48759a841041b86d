"""The excess of the exponential over its tangent at 0."""

import jax
import jax.numpy as jnp

from funcdl._typing import Array

_NEAR = 0.1  # below this, the series with _TERMS terms is exact to rounding, also in float64
_TERMS = 10


@jax.custom_jvp
def excess(t: Array) -> Array:
    """Compute ``exp(t) - 1 - t``: non-negative, and with full relative accuracy near 0."""
    near = jnp.abs(t) < _NEAR
    small = jnp.where(near, t, 0)
    series = 1.0
    for k in range(_TERMS + 2, 2, -1):
        series = 1 + small / k * series
    far = jnp.where(near, 1, t)
    return jnp.where(near, small**2 / 2 * series, jnp.expm1(far) - far)


excess.defjvps(lambda tangent, _, t: tangent * jnp.expm1(t))
