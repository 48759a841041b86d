"""Kronecker products: two small operators in place of a large one."""

import jax

from funcdl._typing import Array, Float, Matvec
from funcdl.operators._core import algebra as _algebra
from funcdl.operators._core.build import flat_space, from_dense
from funcdl.operators._core.checks import not_flat
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action


def kronecker(
    a: LinearOperator | Float[Array, "m n"], b: LinearOperator | Float[Array, "p q"]
) -> LinearOperator:
    r"""Return the Kronecker product of two matrices, :math:`(A \otimes B)\, x = A X B^\top`.

    x holds X row by row. ``solve`` and ``logdet`` exist where both factors have them:
    :math:`\log |\det A \otimes B| = n_B \log |\det A| + n_A \log |\det B|`. The product is
    symmetric, or psd, where both factors are marked so: ``from_dense(a, psd=True)``.

    Args:
        a: The first factor, a matrix or an operator on flat vectors.
        b: The second factor, likewise.

    Returns:
        An operator on vectors ``(n_A n_B,)``.

    Raises:
        TypeError: If a factor is neither a matrix nor an operator.
        ValueError: If a factor is an array that is not 2-D, or its vectors are not flat.

    Source: Van Loan, "The ubiquitous Kronecker product" (2000).

    >>> import jax.numpy as jnp
    >>> A = kronecker(jnp.asarray([[1.0, 2.0]]), jnp.eye(2))
    >>> A.dense().tolist()
    [[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 2.0]]
    """
    a, b = (_factor(name, x) for name, x in (("a", a), ("b", b)))
    dtype = jax.numpy.result_type(a.shape_in.dtype, b.shape_in.dtype)
    n, m = (
        flat_space(x.size * y.size, dtype)
        for x, y in ((a.space_in, b.space_in), (a.space_out, b.space_out))
    )
    action = _algebra.like(_KRONECKER, a.action, b.action)
    flags = a.symmetric and b.symmetric, a.psd and b.psd
    return LinearOperator(action, (a, b), n, m, *flags)


def _factor(name: str, x: LinearOperator | Array) -> LinearOperator:
    if not isinstance(x, LinearOperator):
        x = from_dense(x)
    not_flat(name, x)
    return x


def _each(f: Matvec, g: Matvec, x: Array, rows: int) -> Array:
    """Apply f to the columns and g to the rows of the matrix that x holds."""
    x = jax.vmap(g)(x.reshape(rows, -1))
    return jax.vmap(f, in_axes=1, out_axes=1)(x).reshape(-1)


def _matvec(ab: tuple[LinearOperator, LinearOperator], v: Array) -> Array:
    a, b = ab
    return _each(a.__matmul__, b.__matmul__, v, a.space_in.size)


def _logdet(ab: tuple[LinearOperator, LinearOperator]) -> Array:
    a, b = ab
    return b.space_in.size * a.logdet() + a.space_in.size * b.logdet()


_KRONECKER = Action(
    _matvec,
    lambda ab, w: _matvec((ab[0].T, ab[1].T), w),
    solve=lambda ab, c: _each(ab[0].solve, ab[1].solve, c, ab[0].space_out.size),
    logdet=_logdet,
)
