"""Sums over singular values, and the norms that are such sums."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal, rounding
from funcdl._typing import Array, Float, Scalar
from funcdl.linalg import _divided_differences as _divided
from funcdl.linalg._derivative_order import last, scalar_function, tangent
from funcdl.linalg._svd import factors, mean_where, outside


def spectral_sum(f: Callable, a: Float[Array, "m n"]) -> Scalar:
    r"""Sum a function over the singular values, :math:`F(A) = \sum_i f(s_i)`.

    .. math:: dF = \langle G, dA \rangle, \quad G = U f'(S) V^\top, \quad
              dG = U (f'[s_i, s_j] \circ y + f'[s_i, -s_j] \circ z) V^\top

    with divided differences of f' continued as an odd function, y and z the symmetric and the
    skew part of :math:`U^\top dA\,V`. Right to second order at exact and rounded ties. Where a
    singular value is 0, as far as can be told, f' counts as 0 there: exact for f that is even and
    smooth, as log(1 + s²), and the subgradient of least norm for others, as s.

    Args:
        f: Scalar function of one singular value, twice differentiable on s > 0; it may close over
            traced numbers, whose derivatives are right too.
        a: ``(m, n)``.

    Returns:
        The sum. Its third derivative is refused.

    Raises:
        TypeError: If ``f`` is no function, or ``a`` not of real floats.
        ValueError: If ``f`` does not return one number, or ``a`` is no matrix.

    Source: Lewis and Sendov, "Twice differentiable spectral functions" (2001).

    >>> from funcdl import linalg
    >>> linalg.spectral_sum(lambda s: s**2, jnp.diag(jnp.asarray([1.0, 3.0]))).item()
    10.0
    """
    _check.function("f", f)
    a = _check.matrix("a", a)
    return _sum(scalar_function(f, a.dtype), a)


def nuclear_norm(a: Float[Array, "m n"]) -> Scalar:
    r"""Sum the singular values, :math:`\|A\|_* = \sum_i s_i`.

    Right to second order at ties of non-zero values; where values are 0, the subgradient
    :math:`U_r V_r^\top` of least norm.

    Args:
        a: ``(m, n)``.

    Returns:
        The norm.

    Raises:
        TypeError: If ``a`` is not of real floats.
        ValueError: If ``a`` is no matrix.

    >>> from funcdl import linalg
    >>> jax.grad(linalg.nuclear_norm)(jnp.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return spectral_sum(_identity, a)


def schatten_norm(a: Float[Array, "m n"], p: float | int) -> Scalar:
    r"""Measure the singular values in the p-norm, :math:`(\sum_i s_i^p)^{1/p}`.

    ``p = 1`` is the nuclear norm, 2 the Frobenius norm, ``inf`` the spectral norm. Derivatives as
    those of ``spectral_sum``; 0 at the zero matrix.

    Args:
        a: ``(m, n)``.
        p: At least 1, or ``inf``; a quasi-norm for 0 < p < 1.

    Returns:
        The norm.

    Raises:
        TypeError: If ``a`` is not of real floats, or ``p`` no number.
        ValueError: If ``a`` is no matrix or ``p`` is not positive.

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
    top = jnp.where(top > 0, top, 1)
    total = spectral_sum(Partial(_power, p), a / top)
    alive = ~(total == 0)  # so that NaN stays NaN
    return top * jnp.where(alive, jnp.where(alive, total, 1) ** (1 / p), 0)


def spectral_norm(a: Float[Array, "m n"]) -> Scalar:
    r"""Find the largest singular value, :math:`\|A\|_2 = \max_{|x| = 1} |A x|`.

    Right to second order where it is simple, whatever ties the others have. At a tie it has no
    derivative: the subgradient of least norm, the mean over the tie, comes out; 0 at zero.

    Args:
        a: ``(m, n)``.

    Returns:
        The norm.

    Raises:
        TypeError: If ``a`` is not of real floats.
        ValueError: If ``a`` is no matrix.

    >>> from funcdl import linalg
    >>> linalg.spectral_norm(jnp.asarray([[0.0, 2.0], [1.0, 0.0]])).item()
    2.0
    """
    a = _check.matrix("a", a)
    c = power_of_two(a)
    s = factors(a / c)[1]
    return c * mean_where((s >= s[0] - rounding(s, a.shape)) & (s != 0), s)


def _identity(s):
    return s


def _power(p, s):
    return s**p


@jax.custom_jvp
def _sum(f: Partial, a: Array) -> Scalar:
    c = power_of_two(a)
    return jax.vmap(f)(c * factors(a / c)[1]).sum()


@_sum.defjvp
@exact
def _sum_jvp(primals, tangents):
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
def _odd_jvp(primals, tangents):
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


def _slopes(f: Partial, a: Array):
    """Return U, s with rounding cut to 0, V, f'(s) and f''(0) for every s."""
    c = power_of_two(a)
    u, s, v = factors(a / c)
    zero = s <= rounding(s, a.shape)
    s = jnp.where(zero, 0, c * s)
    safe = jnp.where(zero, 1, s)
    slope = jnp.where(zero, 0, jax.vmap(jax.grad(f))(safe))
    curve = _finite(jax.grad(jax.grad(f))(jnp.zeros((), s.dtype)))
    return u, s, v, slope, jnp.broadcast_to(curve, s.shape)


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)
