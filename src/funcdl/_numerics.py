"""Floating point with care: scaling by powers of two, full-precision products, no tangent."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._typing import Array


def power_of_two(x: Array) -> Array:
    r"""Return the power of two just above the largest entry, 1 for zeros; it has no derivative.

    Dividing by it is exact, and so are the derivatives of ``c f(x / c)`` for an f of degree one.

    Args:
        x: Any array.

    Returns:
        A scalar of its dtype.
    """
    peak = jax.lax.stop_gradient(jnp.abs(x).max(initial=0))
    exponent = jnp.frexp(jnp.where((peak > 0) & jnp.isfinite(peak), peak, 0.5))[1]
    # the inverse of a power of two near the largest is not a normal number
    limit = jnp.finfo(x.dtype).maxexp - 2
    return jnp.ldexp(jnp.ones((), x.dtype), jnp.clip(exponent, -limit, limit))


def reciprocal(x: Array, noise=0) -> Array:
    """Return ``1 / x``, and 0 where ``|x| <= noise``: there the quotient means nothing.

    Args:
        x: Any array.
        noise: A scalar or an array that broadcasts against it.

    Returns:
        An array like ``x``.
    """
    sound = jnp.abs(x) > noise
    return jnp.where(sound, 1 / jnp.where(sound, x, 1), 0)


def rounding(s: Array, shape: tuple[int, ...]) -> Array:
    r"""Return the size of rounding in singular values, :math:`\epsilon \max(m, n)\, s_1`.

    Args:
        s: ``(k,)`` singular or absolute eigenvalues.
        shape: Of the matrix.

    Returns:
        A scalar.
    """
    return jnp.finfo(s.dtype).eps * max(shape) * jnp.abs(s).max()


def exact(f: Callable) -> Callable:
    """Let the products inside of ``f`` have the precision of their dtype, as CPUs do anyway.

    GPUs and TPUs round the factors to 10 or 8 bits otherwise: too few for an orthonormal basis.

    Args:
        f: Any function; also a derivative rule, which is traced on its own.

    Returns:
        The same function.
    """

    @functools.wraps(f)
    def call(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return f(*args, **kwargs)

    return call


def no_tangent(x: Array) -> Array:
    """Return the zero tangent of an output that has no derivative, as ``jax.custom_jvp`` wants it.

    Args:
        x: The output: a count, a flag, or a measured error.

    Returns:
        Zeros of ``float0`` for integers and booleans, zeros like ``x`` for floats.
    """
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jnp.zeros(x.shape, x.dtype if inexact else jax.dtypes.float0)
