"""The condition number from products, by the eigenvalues at both ends."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import check_key
from funcdl._typing import Array, Key
from funcdl.operators._core.build import check_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import EigenPairs
from funcdl.operators._eigen.eigsh import eigsh
from funcdl.operators._solvers.refinement import revealed


class Condition(NamedTuple):
    r"""The condition number of an operator, with the evidence for it.

    Attributes:
        value: :math:`\sigma_1 / \sigma_n`.
        largest: The largest singular value.
        smallest: The smallest singular value.
        residual: The larger of the two true residuals :math:`\|G v - \mu v\| / \mu`; G is A where
            A is psd and otherwise its Gram operator, and :math:`\mu` is an eigenvalue of G.
        converged: Whether the residual met the tolerance.
        matvecs: The number of products with G.
    """

    value: Array
    largest: Array
    smallest: Array
    residual: Array
    converged: Array
    matvecs: Array


def cond(
    A: LinearOperator, *, key: Key[Array, ""], tol: float = 1e-3, max_matvecs: int = 1000
) -> Condition:
    r"""Compute the condition number :math:`\sigma_1 / \sigma_n` by ``eigsh`` at both ends.

    It is computed for A where A is psd, and otherwise for the smaller of :math:`A^\top A` and
    :math:`A A^\top`, whose condition number is the square. The residuals that a dtype can reach
    limit the condition number to about :math:`\text{tol} / (10 \epsilon)`, or its root: 800 and 30
    in float32 with a tolerance of 1e-3. Beyond that, and where A is singular, it does not converge.

    Args:
        A: Any operator; one that is not square has min(m, n) singular values.
        key: The random key for the start vectors.
        tol: The relative tolerance of both eigenvalues.
        max_matvecs: The largest number of products of each of the two runs.

    Returns:
        The condition with its evidence. Derivatives, of any order, are those of the two singular
        values; NaN where it did not converge.

    Raises:
        ValueError: If ``tol`` is negative.
        TypeError: If A is not a ``LinearOperator`` or the key is not typed.

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, -2.0, 5.0])))
    >>> operators.cond(A, key=jax.random.key(0)).value.round(3).item()
    5.0
    """
    check_operator(A)
    check_key(key)
    gram = A if A.psd else A.T @ A if A.space_in.size <= A.space_out.size else A @ A.T
    keys = jax.random.split(key)
    top, bottom = (
        eigsh(gram, 1, key=k, which=which, tol=tol, max_matvecs=max_matvecs)
        for k, which in zip(keys, ("LA", "SA"))
    )
    return _condition(top, bottom, tol, squared=not A.psd)


def _condition(top: EigenPairs, bottom: EigenPairs, tol: float, *, squared: bool) -> Condition:
    ends = jnp.concatenate([top.values, bottom.values])
    residuals = jnp.concatenate([top.residuals, bottom.residuals])
    size = jnp.abs(jax.lax.stop_gradient(ends))
    residual = (residuals / jnp.where(size > 0, size, 1)).max()
    converged = top.converged[0] & bottom.converged[0] & (residual <= tol) & (size > 0).all()
    largest, smallest = jnp.maximum(ends, 0) if not squared else _tree.sqrt(jnp.maximum(ends, 0))
    values = largest / smallest, largest, smallest
    value, largest, smallest = revealed(values, jax.lax.stop_gradient(values), converged)
    return Condition(
        value=value,
        largest=largest,
        smallest=smallest,
        residual=residual,
        converged=converged,
        matvecs=top.matvecs + bottom.matvecs,
    )
