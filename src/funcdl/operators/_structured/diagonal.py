"""Diagonal operators."""

import functools

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._numerics import quotient
from funcdl._typing import Array, Globs, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.space import Action, space
from funcdl.operators._core.views import padded_block


def from_diagonal(d: PyTree, *, psd: bool = False) -> LinearOperator:
    r"""Return a diagonal operator, :math:`(A v)_i = d_i v_i`.

    Where some :math:`d_i` is 0, ``solve`` divides by it: ±inf, or NaN if :math:`b_i` is 0 too; and
    ``logdet`` is -inf.

    Args:
        d: The diagonal, ``(n,)`` or any pytree of float arrays.
        psd: Whether no entry is negative; not checked.

    Returns:
        A symmetric operator on vectors like ``d``, in at least float32.

    Raises:
        TypeError: If a leaf of ``d`` is not of a float dtype.

    >>> import jax.numpy as jnp
    >>> A = from_diagonal(jnp.asarray([2.0, 4.0]))
    >>> (A @ jnp.ones(2)).tolist(), A.solve(jnp.ones(2)).tolist()
    ([2.0, 4.0], [0.5, 0.25])
    """
    _tree.check_floating(d, "d")
    d = jax.tree.map(lambda x: jnp.asarray(x, _tree.wide(jnp.result_type(x))), d)
    form = space(d)
    return LinearOperator(_DIAGONAL, d, form, form, symmetric=True, psd=psd)


def _multiply(d: PyTree, v: PyTree) -> PyTree:
    return jax.tree.map(jnp.multiply, d, v)


def _logdet(d: PyTree) -> Array:
    terms = jax.tree.map(lambda x: jnp.log(jnp.abs(x)).sum(), d)
    return functools.reduce(jnp.add, jax.tree.leaves(terms))


def _block(d: PyTree, rows: Globs, columns: Globs) -> LinearOperator:
    part = _tree.select(d, rows).chosen
    if _tree.matches(d, rows) == _tree.matches(d, columns):
        return from_diagonal(part)
    return padded_block(from_diagonal(d), rows, columns)


_DIAGONAL = Action(
    _multiply,
    _multiply,
    _block,
    solve=lambda d, b: jax.tree.map(quotient, b, d),
    logdet=_logdet,
    shift=lambda d, damping: from_diagonal(jax.tree.map(lambda x: x + damping, d)),
)
