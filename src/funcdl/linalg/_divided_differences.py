r"""Divided differences of smooth functions, exact at ties and accurate near them.

A quotient of differences loses digits as its points come together; a quadrature of the derivative
between them (Genocchi and Hermite) loses digits as they move apart. The quadrature is used where it
lies within the rounding error of the quotient, and the quotient elsewhere, also near a kink.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl._numerics import reciprocal
from funcdl._typing import Array, PyTree
from funcdl.linalg._derivative_order import tangent

# Gauss-Legendre quadrature with three points on 0..1
_NODES = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


def derivative(f: Callable) -> Callable:
    """Return the derivative of a scalar function, applied elementwise to arrays."""
    return elementwise(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1])


def elementwise(f: Callable) -> Callable:
    """Extend a scalar function to arrays of any shape."""
    return lambda x: jax.vmap(f)(x.reshape(-1)).reshape(x.shape)


def first(f: Callable, x: Array) -> Array:
    r"""Return :math:`f[x_i, x_j] = (f(x_i) - f(x_j)) / (x_i - x_j)`, and f' on the diagonal.

    Args:
        f: A smooth scalar function.
        x: The points, ``(n,)``.

    Returns:
        ``(n, n)``, symmetric.
    """
    return _first(f, x[:, None], x[None, :])[0]


def first_along(f: Partial, df: PyTree, x: Array) -> Array:
    """Differentiate ``first(f, x)`` in the leaves that f carries; linear in the direction.

    The choice between the two rules must not depend on the direction, or it could not be
    transposed: a generic direction decides for all.

    Args:
        f: A smooth scalar function.
        df: A tangent of its leaves.
        x: The points, ``(n,)``.

    Returns:
        ``(n, n)``, symmetric.
    """
    low, high = jnp.minimum(x[:, None], x[None, :]), jnp.maximum(x[:, None], x[None, :])

    def rules(df):
        g = Partial(tangent, f, df)
        at_low, at_high = elementwise(g)(low), elementwise(g)(high)
        slopes = [derivative(g)(low + u * (high - low)) for u in _NODES]
        smooth = jnp.asarray(sum(w * slope for slope, w in zip(slopes, _WEIGHTS)))
        return at_high - at_low, _noise(at_low, at_high), smooth

    rise, noise, smooth = rules(jax.tree.map(_generic, f))
    use_quadrature = _unrefuted(rise, high - low, noise, smooth)
    rise, _, smooth = rules(df)
    return jnp.where(use_quadrature, smooth, rise * reciprocal(high - low))


def second(f: Callable, x: Array) -> Array:
    r"""Return the second differences :math:`f[x_i, x_j, x_k]`, f''/2 where all are equal.

    Args:
        f: A smooth scalar function.
        x: The points, ``(n,)``.

    Returns:
        ``(n, n, n)``, symmetric.
    """
    points = jnp.broadcast_arrays(x[:, None, None], x[None, :, None], x[None, None, :])
    low, middle, high = jnp.sort(jnp.stack(points), axis=0)
    left, left_error = _first(f, low, middle)
    right, right_error = _first(f, middle, high)
    curve = derivative(lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))[1])
    smooth = jnp.asarray(
        sum(
            w * v * u * curve(low + u * (middle - low) + u * t * (high - middle))
            for u, w in zip(_NODES, _WEIGHTS)
            for t, v in zip(_NODES, _WEIGHTS)
        )
    )
    return _choose(right - left, high - low, left_error + right_error, smooth)


def _first(f: Callable, a: Array, b: Array) -> tuple[Array, Array]:
    """Return the first difference and a bound on its error."""
    a, b = jnp.broadcast_arrays(a, b)
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    at_low, at_high = elementwise(f)(low), elementwise(f)(high)
    noise = _noise(at_low, at_high)
    slopes = [derivative(f)(low + u * (high - low)) for u in _NODES]
    smooth = jnp.asarray(sum(w * slope for slope, w in zip(slopes, _WEIGHTS)))
    value = _choose(at_high - at_low, high - low, noise, smooth)
    quotient_error = noise * reciprocal(high - low)
    middle_error = jnp.where(value == smooth, jnp.abs(smooth - slopes[1]), quotient_error)
    error = jnp.where(high > low, jnp.minimum(quotient_error, middle_error), 0)
    # slopes have the rounding error of a quotient over the whole range of all points
    largest = jnp.maximum(jnp.abs(low), jnp.abs(high)).max()
    return value, error + noise * reciprocal(largest) + 8 * jnp.finfo(a.dtype).eps * jnp.abs(value)


def _choose(rise: Array, run: Array, noise: Array, smooth: Array) -> Array:
    """Return the quadrature where the quotient does not refute it, and else the quotient."""
    return jnp.where(_unrefuted(rise, run, noise, smooth), smooth, rise * reciprocal(run))


def _unrefuted(rise: Array, run: Array, noise: Array, smooth: Array) -> Array:
    """Mark where the quadrature lies within the error of the quotient, noise / run."""
    return jnp.abs(smooth - rise / jnp.where(run > 0, run, 1)) * run <= noise


def _noise(a: Array, b: Array) -> Array:
    return 8 * jnp.finfo(a.dtype).eps * (jnp.abs(a) + jnp.abs(b))


def _generic(leaf: Array | float) -> Array:
    """Return a direction in which nothing cancels."""
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros(leaf.shape, jax.dtypes.float0)
    return (1 + jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)) / 2).reshape(leaf.shape)
