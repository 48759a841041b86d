"""Orthogonal maps: rotations, reflections, and two parametrizations of the rotations."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._check import integer_in, real_array, square
from funcdl._typing import Array, Float, Scalar
from funcdl.operators._core.build import flat_space, matrix_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action


def givens(n: int, i: int, j: int, angle: Scalar | float) -> LinearOperator:
    r"""Rotate the plane of two coordinates, :math:`e_i \mapsto \cos\phi\, e_i + \sin\phi\, e_j`.

    Args:
        n: The dimension.
        i: The first coordinate of the plane.
        j: The second coordinate, different from i.
        angle: The angle :math:`\phi`, in radians.

    Returns:
        An orthogonal operator on vectors ``(n,)``: ``solve`` is the transpose, ``logdet`` is 0.

    Raises:
        TypeError: If n, i or j is not an integer, or the angle not a float.
        ValueError: If i and j are equal or outside of 0..n - 1.

    Source: Golub and Van Loan, "Matrix computations" (2013), section 5.1.

    >>> (givens(3, 0, 2, jnp.pi / 2) @ jnp.asarray([1.0, 5.0, 0.0])).round(4).tolist()
    [0.0, 5.0, 1.0]
    """
    i, j = (integer_in(name, k, 0, n - 1) for name, k in (("i", i), ("j", j)))
    if i == j:
        raise ValueError(f"i and j are both {i}; expected two different coordinates of a plane")
    angle = real_array("angle", angle, 0)
    form = flat_space(n, angle.dtype)
    return LinearOperator(_givens(i, j), angle.astype(form.tree.dtype), form, form)


@functools.cache
def _givens(i: int, j: int) -> Action:
    def rotate(angle, v):
        c, s = jnp.cos(angle), jnp.sin(angle)
        return v.at[i].set(c * v[i] - s * v[j]).at[j].set(s * v[i] + c * v[j])

    return _orthogonal(rotate, lambda angle, w: rotate(-angle, w))


def householder(v: Float[Array, " n"]) -> LinearOperator:
    r"""Reflect at the hyperplane orthogonal to a vector, :math:`I - 2 v v^\top / v^\top v`.

    At :math:`v = 0` it is the identity, with derivative 0.

    Args:
        v: The normal of the hyperplane, of any length.

    Returns:
        A symmetric orthogonal operator on vectors ``(n,)``: it is its own inverse.

    Raises:
        TypeError: If v is not of a float dtype.
        ValueError: If v is not a vector.

    Source: Golub and Van Loan, "Matrix computations" (2013), section 5.1.

    >>> (householder(jnp.asarray([3.0, 0.0])) @ jnp.asarray([1.0, 2.0])).tolist()
    [-1.0, 2.0]
    """
    v = real_array("v", v, 1)
    form = flat_space(v.size, v.dtype)
    return LinearOperator(_HOUSEHOLDER, v.astype(form.tree.dtype), form, form, symmetric=True)


def _reflect(v: Array, x: Array) -> Array:
    peak = jax.lax.stop_gradient(jnp.abs(v).max(initial=0))
    v = v / jnp.where(peak > 0, peak, 1)  # squares of numbers below 1e-19 underflow in float32
    square = v @ v
    return x - jnp.where(peak > 0, 2 / jnp.where(peak > 0, square, 1) * (v @ x), 0) * v


def cayley(params: Float[Array, "n n"]) -> LinearOperator:
    r"""Map any matrix to a rotation, :math:`(I - S)(I + S)^{-1}` with :math:`S = (P - P^\top)/2`.

    Every rotation without the eigenvalue -1 has this form. The matrix is computed once, by a solve.

    Args:
        params: Any square matrix P; only its skew-symmetric part matters.

    Returns:
        An orthogonal operator on vectors ``(n,)``: ``solve`` is the transpose, ``logdet`` is 0.

    Raises:
        TypeError: If P is not of a float dtype.
        ValueError: If P is not square.

    Source: Cayley, "Sur quelques propriétés des déterminants gauches" (1846).

    >>> cayley(jnp.asarray([[0.0, 2.0], [0.0, 0.0]])).dense().round(4).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    s = _skew(params)
    identity = jnp.eye(len(s), dtype=s.dtype)
    return matrix_operator(_ROTATION, jnp.linalg.solve(identity + s, identity - s))


def orthogonal(params: Float[Array, "n n"]) -> LinearOperator:
    r"""Map any matrix to a rotation, :math:`\exp S` with :math:`S = (P - P^\top)/2`.

    Every rotation has this form. The matrix exponential is computed once.

    Args:
        params: Any square matrix P; only its skew-symmetric part matters.

    Returns:
        An orthogonal operator on vectors ``(n,)``: ``solve`` is the transpose, ``logdet`` is 0.

    Raises:
        TypeError: If P is not of a float dtype.
        ValueError: If P is not square.

    Source: Lezcano-Casado and Martínez-Rubio, "Cheap orthogonal constraints in neural networks"
    (2019).

    >>> quarter = orthogonal(jnp.asarray([[0.0, -jnp.pi], [0.0, 0.0]]))
    >>> (quarter @ jnp.asarray([1.0, 0.0])).round(4).tolist()
    [0.0, 1.0]
    """
    return matrix_operator(_ROTATION, jax.scipy.linalg.expm(_skew(params)))


def _skew(params: Array) -> Array:
    p = square("params", params)
    p = p.astype(flat_space(1, p.dtype).tree.dtype)
    return (p - p.T) / 2


def _orthogonal(matvec: Callable, transpose: Callable) -> Action:
    return Action(matvec, transpose, solve=transpose, logdet=_no_volume)


def _no_volume(operand: Array) -> Array:
    return jnp.zeros((), operand.dtype)


_HOUSEHOLDER = _orthogonal(_reflect, _reflect)
_ROTATION = _orthogonal(lambda q, v: q @ v, lambda q, w: w @ q)
