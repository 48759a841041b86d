r"""Divided differences of smooth functions, exact at ties and accurate beside them.

A quotient of differences loses digits as its points come together; a quadrature of the derivative
between them (Genocchi and Hermite) loses digits as they go apart. The quadrature is taken where it
lies within the rounding of the quotient, and the quotient elsewhere, also beside a kink.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._typing import Array
from funcdl.linalg._scale import reciprocal

# Gauss-Legendre with three points on 0..1
_NODES = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


def derivative(f: Callable) -> Callable:
    """Return the derivative of a scalar function, elementwise on arrays."""
    return elementwise(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1])


def elementwise(f: Callable) -> Callable:
    """Return a scalar function as one of arrays of any shape."""
    return lambda x: jax.vmap(f)(x.reshape(-1)).reshape(x.shape)


def first(f: Callable, x: Array) -> Array:
    r"""Return :math:`f[x_i, x_j] = (f(x_i) - f(x_j)) / (x_i - x_j)`, and f' on the diagonal.

    Args:
        f: Smooth scalar function.
        x: ``(n,)``.

    Returns:
        ``(n, n)``, symmetric.
    """
    return _first(f, x[:, None], x[None, :])[0]


def second(f: Callable, x: Array) -> Array:
    r"""Return the second differences :math:`f[x_i, x_j, x_k]`, f''/2 where all are equal.

    Args:
        f: Smooth scalar function.
        x: ``(n,)``.

    Returns:
        ``(n, n, n)``, symmetric.
    """
    points = jnp.broadcast_arrays(x[:, None, None], x[None, :, None], x[None, None, :])
    low, middle, high = jnp.sort(jnp.stack(points), axis=0)
    left, left_error = _first(f, low, middle)
    right, right_error = _first(f, middle, high)
    curve = derivative(lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))[1])
    smooth = sum(
        w * v * u * curve(low + u * (middle - low) + u * t * (high - middle))
        for u, w in zip(_NODES, _WEIGHTS)
        for t, v in zip(_NODES, _WEIGHTS)
    )
    return _choose(right - left, high - low, left_error + right_error, smooth)


def _first(f: Callable, a: Array, b: Array) -> tuple[Array, Array]:
    """Return the first difference and a bound of its error."""
    a, b = jnp.broadcast_arrays(a, b)
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    at_low, at_high = elementwise(f)(low), elementwise(f)(high)
    noise = 8 * jnp.finfo(a.dtype).eps * (jnp.abs(at_low) + jnp.abs(at_high))
    slopes = [derivative(f)(low + u * (high - low)) for u in _NODES]
    smooth = sum(w * slope for slope, w in zip(slopes, _WEIGHTS))
    value = _choose(at_high - at_low, high - low, noise, smooth)
    quotient_error = noise * reciprocal(high - low)
    middle_error = jnp.where(value == smooth, jnp.abs(smooth - slopes[1]), quotient_error)
    error = jnp.where(high > low, jnp.minimum(quotient_error, middle_error), 0)
    # slopes round as a quotient over the whole range of the points does
    largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
    return value, error + noise * reciprocal(largest) + 8 * jnp.finfo(a.dtype).eps * jnp.abs(value)


def _choose(rise: Array, run: Array, noise: Array, smooth: Array) -> Array:
    """Take the quadrature where the quotient, which is off by noise / run, cannot refute it."""
    quotient = rise / jnp.where(run > 0, run, 1)
    return jnp.where(jnp.abs(smooth - quotient) * run <= noise, smooth, quotient)
