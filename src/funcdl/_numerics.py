"""Floating-point helpers: scaling by powers of two, full-precision products, zero tangents."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcdl._typing import Array, ArrayLike, PyTree


def power_of_two(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    r"""Return the power of two just above the largest entry, or 1 for zeros; it has no derivative.

    Dividing by it is exact, and the derivatives of ``c f(x / c)`` are exact too for an f that is
    homogeneous of degree one.

    Args:
        x: Any array.
        axis: The axes along which to look for the largest entry; by default all of them.

    Returns:
        An array without these axes, with the dtype of ``x``.
    """
    peak = jax.lax.stop_gradient(jnp.abs(x).max(axis, initial=0))
    exponent = jnp.frexp(jnp.where((peak > 0) & jnp.isfinite(peak), peak, 0.5))[1]
    # the reciprocal of a power of two near the largest one would be subnormal
    limit = jnp.finfo(x.dtype).maxexp - 2
    return jnp.ldexp(jnp.ones((), x.dtype), jnp.clip(exponent, -limit, limit))


def reciprocal(x: Array, noise: ArrayLike = 0) -> Array:
    """Return ``1 / x``, and 0 where ``|x| <= noise`` makes the quotient meaningless.

    Args:
        x: Any array.
        noise: The noise level of x, a scalar or an array that broadcasts against it.

    Returns:
        An array like ``x``.
    """
    is_sound = ~(jnp.abs(x) <= noise)  # NaN stays NaN
    return jnp.where(is_sound, 1 / jnp.where(is_sound, x, 1), 0)


@jax.custom_jvp
def quotient(x: ArrayLike, y: ArrayLike) -> Array:
    """Return ``x / y``; its first derivative is finite wherever it is representable.

    The derivative of ``/`` is that of ``x * y**-2``, which leaves the range of the dtype at the
    root of its limits.

    Args:
        x: Any array.
        y: Any array that broadcasts against it.

    Returns:
        An array.
    """
    return jnp.divide(x, y)


@quotient.defjvp
def _quotient_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (_, y), (dx, dy) = primals, tangents
    result = quotient(*primals)
    return result, (dx - result * dy) / y


def rounding(s: Array, shape: tuple[int, ...]) -> Array:
    r"""Return the rounding error of singular values, :math:`\epsilon \max(m, n)\, s_1`.

    Args:
        s: ``(k,)`` singular values, or absolute eigenvalues.
        shape: The shape of the matrix.

    Returns:
        A scalar.
    """
    return jnp.finfo(s.dtype).eps * max(shape) * jnp.abs(s).max()


def decomposed(decompose: Callable, a: Array) -> PyTree:
    """Decompose a matrix; everything is NaN where the matrix is not finite.

    LAPACK may return sound-looking numbers for NaN, and does not return at all for infinity.

    Args:
        decompose: ``decompose(a) -> tree of float arrays``, such as ``jnp.linalg.eigh``.
        a: The matrix, ``(m, n)``.

    Returns:
        The result of ``decompose``.
    """
    is_finite = jnp.isfinite(a).all()
    results = decompose(jnp.where(is_finite, a, 0))
    return jax.tree.map(lambda x: jnp.where(is_finite, x, jnp.nan), results)


def exact(f: Callable) -> Callable:
    """Run the products inside ``f`` in the full precision of their dtype, as CPUs always do.

    GPUs and TPUs by default round the factors to 10 or 8 bits, too few for an orthonormal basis.

    Args:
        f: Any function, or a derivative rule, which is traced separately and needs its own wrapper.

    Returns:
        A function that computes the same in full precision.
    """

    @functools.wraps(f)
    def call(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return f(*args, **kwargs)

    return call


class custom_jvp:
    """``jax.custom_jvp`` whose rule also holds in loops that are differentiated twice.

    Before 0.12, jax replaces the function in the body of a ``scan`` by its own body when it
    differentiates in reverse mode, and a second derivative then is that of the body: wrong where
    the body is a search or ignores an argument. A rematerialized call stays a call; this one saves
    everything, so that nothing is computed twice.
    """

    def __init__(self, f: Callable, nondiff_argnums: tuple[int, ...] = ()) -> None:
        """Wrap a function; ``nondiff_argnums`` are the positions of arguments without tangents."""
        self._call = jax.custom_jvp(f, nondiff_argnums=nondiff_argnums)
        policy = jax.checkpoint_policies.everything_saveable
        self._kept = jax.checkpoint(
            self._call, policy=policy, prevent_cse=False, static_argnums=nondiff_argnums
        )
        functools.update_wrapper(self, f)

    def defjvp(self, rule: Callable) -> Callable:
        """Set the rule, as in jax."""
        self._call.defjvp(rule)
        return rule

    def __call__(self, *args: Any) -> Any:
        """Call the function; only a call that is traced can be in a loop."""
        is_traced = any(map(_is_traced, jax.tree.leaves(args)))
        return self._kept(*args) if is_traced else self._call(*args)


def _is_traced(x: Any) -> bool:
    try:
        return isinstance(x, jax.Array) and not x.devices()
    except jax.errors.ConcretizationTypeError:
        return True


def no_tangent(x: Array) -> Any:
    """Return the zero tangent of an output without derivative, in the form of ``jax.custom_jvp``.

    Args:
        x: The output: a count, a flag, or a measured error.

    Returns:
        Zeros of ``float0`` for integers and booleans, zeros like ``x`` for floats.
    """
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jnp.zeros(x.shape, x.dtype if inexact else jax.dtypes.float0)
