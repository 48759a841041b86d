"""Norms of vectors, and those norms of matrices that need no decomposition."""

import jax
import jax.numpy as jnp

from funcdl import _check, _tree
from funcdl._typing import Array, Float, Scalar


def norm(x: Float[Array, " n"], p: float | int = 2) -> Scalar:
    r"""Compute the p-norm of a vector, :math:`\|x\|_p = (\sum_i |x_i|^p)^{1/p}`.

    It is a norm for p of at least 1, and its gradient at 0 is 0, the subgradient of least norm. For
    0 < p < 1 it is not a norm but a measure of sparsity, and ``p = 0`` counts the non-zero entries.
    Entries at 0 add nothing to a derivative that does not exist there: the gradient for p < 1, the
    second derivative for p < 2. Values and derivatives are right in the whole range of the dtype.

    Args:
        x: The vector, ``(n,)``.
        p: The order, at least 0 or ``inf``; static.

    Returns:
        The norm.

    Raises:
        TypeError: If ``x`` is not of a real float dtype, or ``p`` is not a number.
        ValueError: If ``x`` is not a vector, or p < 0.

    >>> from funcdl import linalg
    >>> x = jnp.asarray([3.0, 0.0, -4.0])
    >>> [linalg.norm(x, p).item() for p in (0, 1, 2, jnp.inf)]
    [2.0, 7.0, 5.0, 4.0]
    """
    x = _check.real_array("x", x, 1)
    _check.static_number("p", p)
    if not p >= 0:
        raise ValueError(f"p is {p}; expected a number >= 0, or inf")
    if p == 0:
        return jnp.count_nonzero(x).astype(x.dtype)
    if p == 1:
        return _magnitude(x).sum()
    if p == 2:
        return _tree.norm(x).astype(x.dtype)
    peak = _magnitude(x).max(initial=0)
    if p == jnp.inf:
        return peak
    peak = jax.lax.stop_gradient(peak)
    size = jnp.abs(x / jnp.where(peak > 0, peak, 1))
    positive = size > 0
    total = jnp.where(positive, jnp.where(positive, size, 1) ** p, 0).sum()
    root = jnp.where(peak > 0, total, 1) ** (1 / p)
    return peak * root


def one_norm(a: Float[Array, "m n"]) -> Scalar:
    r"""Compute the largest absolute column sum, :math:`\|A\|_1 = \max_j \sum_i |a_{ij}|`.

    Args:
        a: The matrix, ``(m, n)``.

    Returns:
        The norm; at a tie of columns its gradient is shared evenly.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    >>> from funcdl import linalg
    >>> linalg.one_norm(jnp.asarray([[1.0, -2.0], [0.0, 3.0]])).item()
    5.0
    """
    return _magnitude(_check.matrix("a", a)).sum(axis=0).max(initial=0)


def inf_norm(a: Float[Array, "m n"]) -> Scalar:
    r"""Compute the largest absolute row sum, :math:`\|A\|_\infty = \max_i \sum_j |a_{ij}|`.

    Args:
        a: The matrix, ``(m, n)``.

    Returns:
        The norm; at a tie of rows its gradient is shared evenly.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    >>> from funcdl import linalg
    >>> linalg.inf_norm(jnp.asarray([[1.0, -2.0], [0.0, 4.0]])).item()
    4.0
    """
    return one_norm(_check.matrix("a", a).T)


def frobenius_norm(a: Float[Array, "m n"]) -> Scalar:
    r"""Compute the Frobenius norm, :math:`\|A\|_F = (\sum_{ij} a_{ij}^2)^{1/2}`.

    Args:
        a: The matrix, ``(m, n)``.

    Returns:
        The norm; its gradient at 0 is 0.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix.

    >>> from funcdl import linalg
    >>> linalg.frobenius_norm(jnp.asarray([[3.0, 0.0], [0.0, 4.0]])).item()
    5.0
    """
    a = _check.matrix("a", a)
    return _tree.norm(a).astype(a.dtype)


def _magnitude(x: Array) -> Array:
    """Return ``|x|`` with slope 0 at 0; that of ``jnp.abs`` is 1."""
    return x * jax.lax.stop_gradient(jnp.sign(x))
