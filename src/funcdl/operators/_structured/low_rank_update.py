"""Low-rank updates of an operator that can be solved directly."""

import jax
import jax.numpy as jnp

from funcdl._check import real_array
from funcdl._typing import Array, ArrayLike, Float
from funcdl.operators._core import algebra as _algebra
from funcdl.operators._core.checks import not_flat, not_square
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action
from funcdl.operators._structured.diagonal import from_diagonal

_Operands = tuple[LinearOperator, Array, Array | None]  # A, U, and V unless it is U


def low_rank_update(
    base: LinearOperator | Float[Array, " n"],
    u: Float[Array, "n k"],
    v: Float[Array, "n k"] | None = None,
) -> LinearOperator:
    r"""Add a matrix of low rank, :math:`A + U V^\top`.

    Where A has a ``solve``, the sum has one too, by Woodbury's formula,
    :math:`(A + U V^\top)^{-1} b = z - W (I + V^\top W)^{-1} V^\top z` with :math:`z = A^{-1} b` and
    :math:`W = A^{-1} U`, and by the determinant lemma
    :math:`\log|\det(A + U V^\top)| = \log|\det A| + \log|\det(I + V^\top W)|`. A itself must be
    regular: where it is nearly singular, digits are lost even if the sum is well conditioned.

    Args:
        base: A square operator A on vectors ``(n,)``, or the diagonal of one.
        u: The left factor, ``(n, k)``.
        v: The right factor, ``(n, k)``; by default ``u``, which keeps A symmetric and psd.

    Returns:
        An operator on vectors ``(n,)``.

    Raises:
        TypeError: If u or v is not of a float dtype.
        ValueError: If A is not square or shapes do not match.

    Source: Woodbury, "Inverting modified matrices" (1950); Harville, "Matrix algebra" (1997), 18.1.

    >>> A = low_rank_update(jnp.asarray([1.0, 2.0]), jnp.ones((2, 1)))
    >>> A.dense().tolist(), A.solve(jnp.asarray([3.0, 4.0])).round(4).tolist()
    ([[2.0, 1.0], [1.0, 3.0]], [1.0, 1.0])
    """
    base = base if isinstance(base, LinearOperator) else from_diagonal(real_array("base", base, 1))
    not_flat("base", base)
    not_square(base)
    n, dtype = base.space_in.size, base.shape_in.dtype
    same, v = v is None, u if v is None else v
    u, v = (real_array(name, x, 2) for name, x in (("u", u), ("v", v)))
    if u.shape != v.shape or len(u) != n:
        raise ValueError(f"u has shape {u.shape} and v {v.shape}; both must have shape ({n}, k)")
    operands = base, u.astype(dtype), None if same else v.astype(dtype)
    action = _algebra.like(_UPDATED, base.action)._replace(
        shift=_shift if base.action.shift else None
    )
    flags = same and base.symmetric, same and base.psd
    return LinearOperator(action, operands, base.space_in, base.space_out, *flags)


def _parts(operands: _Operands) -> tuple[LinearOperator, Array, Array]:
    base, u, v = operands
    return base, u, u if v is None else v


def _inner(operands: _Operands) -> tuple[Array, Array]:
    """Return W and the small matrix of Woodbury's formula."""
    base, u, v = _parts(operands)
    w = jax.vmap(base.solve, in_axes=1, out_axes=1)(u)
    return w, jnp.eye(u.shape[1], dtype=u.dtype) + v.T @ w


def _matvec(operands: _Operands, x: Array) -> Array:
    base, u, v = _parts(operands)
    return base @ x + u @ (x @ v)


def _transpose(operands: _Operands, y: Array) -> Array:
    base, u, v = _parts(operands)
    return base.T @ y + v @ (y @ u)


def _solve(operands: _Operands, b: Array) -> Array:
    base, _, v = _parts(operands)
    z = base.solve(b)
    w, small = _inner(operands)
    return z - w @ jnp.linalg.solve(small, z @ v)


def _logdet(operands: _Operands) -> Array:
    return operands[0].logdet() + jnp.linalg.slogdet(_inner(operands)[1])[1]


def _shift(operands: _Operands, damping: ArrayLike) -> LinearOperator:
    base, u, v = operands
    return low_rank_update(base.shift(damping), u, v)


_UPDATED = Action(_matvec, _transpose, solve=_solve, logdet=_logdet)
