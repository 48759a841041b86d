"""Functions of symmetric matrices, right to second order at every tie and in every mode."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _check
from funcdl._numerics import exact, power_of_two
from funcdl._typing import Array, Float, PyTree
from funcdl.linalg import _divided_differences as _divided
from funcdl.linalg._derivative_order import last, scalar_function, self_adjoint, tangent
from funcdl.linalg._eigh import eigen_factors, symmetric_part


def matrix_function(f: Callable, a: Float[Array, "n n"]) -> Float[Array, "n n"]:
    r"""Apply a scalar function to the eigenvalues, :math:`f(A) = V f(w) V^\top`.

    .. math::
        D f(A)[E] &= V (f[w_i, w_j] \circ \hat E) V^\top, \qquad \hat E = V^\top E V \\
        D^2 f(A)[E, F] &= V \Big(\sum_k f[w_i, w_k, w_j]
            (\hat E_{ik} \hat F_{kj} + \hat F_{ik} \hat E_{kj})\Big) V^\top

    with divided differences, which are finite at ties. Derivatives are right to second order in
    forward and reverse mode; the second derivative holds n³ numbers.

    Args:
        f: A scalar function of one eigenvalue, twice differentiable where the eigenvalues lie. It
            may close over traced numbers, whose derivatives are right too.
        a: The matrix, ``(n, n)``; :math:`(A + A^\top)/2` is used.

    Returns:
        ``(n, n)``, symmetric. A third derivative raises an error.

    Raises:
        TypeError: If ``f`` is not callable, or ``a`` not of a real float dtype.
        ValueError: If ``f`` does not return one real number, or ``a`` is not a square matrix.

    Source: Higham, "Functions of matrices" (2008), theorem 3.11 and section 3.1; Bhatia, "Matrix
    analysis" (1997), section V.3.

    >>> from funcdl import linalg
    >>> a = jnp.asarray([[0.0, 2.0], [2.0, 0.0]])
    >>> linalg.matrix_function(lambda w: w**2, a).round(4).tolist()
    [[4.0, 0.0], [0.0, 4.0]]
    """
    _check.function("f", f)
    a = _check.square("a", a)
    return _apply(scalar_function(f, a.dtype), symmetric_part(a))


@jax.custom_jvp
@exact
def _apply(f: Partial, a: Array) -> Array:
    w, v = _factors(a)
    return (v * jax.vmap(f)(w)[None]) @ v.T


@_apply.defjvp
def _apply_jvp(primals: tuple, tangents: tuple) -> tuple:
    (f, a), (df, da) = primals, tangents
    in_a = self_adjoint(lambda e: _slope(f, a, e), da)
    return _apply(f, a), in_a + _carried(f, df, a)


@exact
def _carried(f: Partial, df: PyTree, a: Array) -> Array:
    """Return the derivative in the leaves of f, linear in df, and right in a to first order.

    Reverse mode transposes it step by step, and would lose a custom rule for ``a`` on the way;
    therefore the dependence on ``a`` is written out around the current point.
    """
    w, v = jax.lax.stop_gradient(_factors(a))
    at_point = jax.vmap(Partial(tangent, f, df))(w)
    offset = _divided.first_along(f, df, w) * (v.T @ _offset(a) @ v)
    return v @ (jnp.diag(at_point) + offset) @ v.T


@jax.custom_jvp
def _offset(a: Array) -> Array:
    """Return ``a - stop_gradient(a)``, and raise an error for a second derivative."""
    return jnp.zeros_like(a)


@_offset.defjvp
def _offset_jvp(primals: tuple, tangents: tuple) -> tuple:
    return jnp.zeros_like(primals[0]), tangents[0] * (1 + 0 * last("matrix_function", primals[0]))


@jax.custom_jvp
@exact
def _slope(f: Partial, a: Array, e: Array) -> Array:
    """Return the first derivative in direction e; it is self-adjoint in e."""
    w, v = _factors(a)
    return v @ (_divided.first(f, w) * (v.T @ e @ v)) @ v.T


@_slope.defjvp
@exact
def _slope_jvp(primals: tuple, tangents: tuple) -> tuple:
    (f, a, e), (df, da, de) = primals, tangents
    w, v = _factors(last("matrix_function", a))
    e_hat, d_hat = v.T @ e @ v, v.T @ da @ v
    weights = _divided.second(f, w)
    twice = jnp.einsum("ikj,ik,kj->ij", weights, e_hat, d_hat)
    twice = twice + jnp.einsum("ikj,ik,kj->ij", weights, d_hat, e_hat)
    in_f = v @ (_divided.first_along(f, df, w) * e_hat) @ v.T
    out = v @ twice @ v.T + _slope(f, a, de) + in_f
    return _slope(f, a, e), out


def _factors(a: Array) -> tuple[Array, Array]:
    c = power_of_two(a)
    w, v = eigen_factors(a / c)
    return c * w, v
