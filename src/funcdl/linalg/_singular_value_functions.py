"""Sums over singular values, and the norms that are such sums."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal, rounding
from funcdl._typing import Array, ArrayLike, Float, Scalar
from funcdl.linalg import _divided_differences as _divided
from funcdl.linalg._derivative_order import last, scalar_function, tangent
from funcdl.linalg._svd import factors, mean_where, outside


def spectral_sum(f: Callable, a: Float[Array, "m n"]) -> Scalar:
    r"""Sum a function over the singular values, :math:`F(A) = \sum_i f(s_i)`.

    .. math:: dF = \langle G, dA \rangle, \quad G = U f'(S) V^\top, \quad
              dG = U (f'[s_i, s_j] \circ y + f'[s_i, -s_j] \circ z) V^\top

    with divided differences of f' continued as an odd function, where y and z are the symmetric and
    the skew-symmetric part of :math:`U^\top dA\,V`. Derivatives are right to second order at exact
    and rounded ties. Where a singular value is 0 up to rounding, f' counts as 0: this is exact for
    an f that is even and smooth, such as log(1 + s²), and the subgradient of least norm for others,
    such as s.

    Args:
        f: A scalar function of one singular value, twice differentiable on s > 0; it may close over
            traced numbers, whose derivatives are right too.
        a: The matrix, ``(m, n)``.

    Returns:
        The sum. A third derivative raises an error.

    Raises:
        TypeError: If ``f`` is not callable, or ``a`` not of a real float dtype.
        ValueError: If ``f`` does not return one real number, or ``a`` is not a matrix.

    Source: Lewis and Sendov, "Twice differentiable spectral functions" (2001).

    >>> from funcdl import linalg
    >>> linalg.spectral_sum(lambda s: s**2, jnp.diag(jnp.asarray([1.0, 3.0]))).item()
    10.0
    """
    _check.function("f", f)
    a = _check.matrix("a", a)
    return _sum(scalar_function(f, a.dtype), a)


def nuclear_norm(a: Float[Array, "m n"]) -> Scalar:
    r"""Compute the sum of the singular values, :math:`\|A\|_* = \sum_i s_i`.

    Derivatives are right to second order at ties of non-zero values; where values are 0, the
    gradient is the subgradient :math:`U_r V_r^\top` of least norm.

    Args:
        a: The matrix, ``(m, n)``.

    Returns:
        The norm.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    >>> from funcdl import linalg
    >>> jax.grad(linalg.nuclear_norm)(jnp.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return spectral_sum(_identity, a)


def schatten_norm(a: Float[Array, "m n"], p: float | int) -> Scalar:
    r"""Compute the p-norm of the singular values, :math:`(\sum_i s_i^p)^{1/p}`.

    ``p = 1`` is the nuclear norm, 2 the Frobenius norm, ``inf`` the spectral norm. Derivatives are
    those of ``spectral_sum``; they are 0 at the zero matrix.

    Args:
        a: The matrix, ``(m, n)``.
        p: The order, at least 1 or ``inf``; a quasi-norm for 0 < p < 1.

    Returns:
        The norm.

    Raises:
        TypeError: If ``a`` is not of a real float dtype, or ``p`` is not a number.
        ValueError: If ``a`` is not a matrix or ``p`` is not positive.

    >>> from funcdl import linalg
    >>> linalg.schatten_norm(jnp.diag(jnp.asarray([3.0, 4.0])), 2).item()
    5.0
    """
    a = _check.matrix("a", a)
    _check.static_number("p", p)
    if not p > 0:
        raise ValueError(f"p is {p}; expected a number > 0, or inf")
    if p == jnp.inf:
        return spectral_norm(a)
    top = jax.lax.stop_gradient(spectral_norm(a))  # s^p overflows for large p
    top = jnp.where(top == 0, 1, top)
    total = spectral_sum(Partial(_power, p), a / top)
    is_nonzero = ~(total == 0)  # true for NaN, so that NaN stays NaN
    return top * jnp.where(is_nonzero, jnp.where(is_nonzero, total, 1) ** (1 / p), 0)


def spectral_norm(a: Float[Array, "m n"]) -> Scalar:
    r"""Compute the largest singular value, :math:`\|A\|_2 = \max_{|x| = 1} |A x|`.

    Derivatives are right to second order where it is simple, whatever ties the others have. At a
    tie it has no derivative, and the gradient is the subgradient of least norm, the mean over the
    tie; it is 0 at the zero matrix.

    Args:
        a: The matrix, ``(m, n)``.

    Returns:
        The norm.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    >>> from funcdl import linalg
    >>> linalg.spectral_norm(jnp.asarray([[0.0, 2.0], [1.0, 0.0]])).item()
    2.0
    """
    a = _check.matrix("a", a)
    c = power_of_two(a)
    s = factors(a / c)[1]
    # written so that NaN is chosen too
    return c * mean_where(~(s < s[0] - rounding(s, a.shape)) & (s != 0), s)


def _identity(s: Array) -> Array:
    return s


def _power(p: ArrayLike, s: Array) -> Array:
    return s**p


@jax.custom_jvp
def _sum(f: Partial, a: Array) -> Scalar:
    c = power_of_two(a)
    return jax.vmap(f)(c * factors(a / c)[1]).sum()


@_sum.defjvp
@exact
def _sum_jvp(primals: tuple, tangents: tuple) -> tuple:
    (f, a), (df, da) = primals, tangents
    in_f = _sum(Partial(tangent, f, df), a)
    return _sum(f, a), in_f + jnp.vdot(_odd(f, a), da)


@jax.custom_jvp
@exact
def _odd(f: Partial, a: Array) -> Array:
    """Return the gradient of the sum, ``U f'(S) Vᵀ``."""
    u, _, v, slope, _ = _slopes(f, a)
    return (u * slope[None]) @ v.T


@_odd.defjvp
@exact
def _odd_jvp(primals: tuple, tangents: tuple) -> tuple:
    (f, a), (df, da) = primals, tangents
    u, s, v, slope, curve = _slopes(f, last("spectral_sum", a))
    c = u.T @ da @ v
    y, z = (c + c.T) / 2, (c - c.T) / 2
    even = _divided.first(jax.grad(f), s)
    # continued as an odd function, f' has no cancellation across zero
    across = s[:, None] + s[None, :]
    odd = (slope[:, None] + slope[None, :]) * reciprocal(across)
    odd = jnp.where(across > 0, odd, curve[:, None])
    out = u @ (even * y + odd * z) @ v.T
    radial = jnp.where(s > 0, slope * reciprocal(s), curve)[None]
    if a.shape[0] > a.shape[1]:
        out = out + (outside(u, da @ v) * radial) @ v.T
    if a.shape[0] < a.shape[1]:
        out = out + u @ (outside(v, da.T @ u) * radial).T
    return _odd(f, a), out + _odd(Partial(tangent, f, df), a)


def _slopes(f: Partial, a: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return U, s with rounding errors set to 0, V, f'(s), and f''(0) for every s."""
    c = power_of_two(a)
    u, s, v = factors(a / c)
    zero = s <= rounding(s, a.shape)  # false for NaN
    s = jnp.where(zero, 0, c * s)
    safe = jnp.where(zero, 1, s)
    slope = jnp.where(zero, 0, jax.vmap(jax.grad(f))(safe))
    curve = _finite(jax.grad(jax.grad(f))(jnp.zeros((), s.dtype)))
    return u, s, v, slope, jnp.broadcast_to(curve, s.shape)


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)
