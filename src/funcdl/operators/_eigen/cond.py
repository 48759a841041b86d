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
    r"""How far an operator is from singular.

    Attributes:
        value: :math:`\sigma_1 / \sigma_n`.
        largest: The largest singular value.
        smallest: The smallest one.
        residual: The larger of the two :math:`\|G v - \mu v\| / \mu`, true ones; G is A where
            that is psd, else its Gram operator, and :math:`\mu` its eigenvalue.
        converged: Whether it met the tolerance.
        matvecs: How many products with G it took.
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
    r"""Find the condition number :math:`\sigma_1 / \sigma_n` by ``eigsh`` at both ends.

    Of A where that is psd, else of :math:`A^\top A` or :math:`A A^\top`, the smaller
    of them, whose condition is the square. The residuals that a dtype can reach end at a condition
    of about :math:`\text{tol} / (10 \epsilon)`, or its root: 800 and 30 in float32 with a tolerance
    of 1e-3. Beyond, and where A is singular, it does not converge.

    Args:
        A: Any operator; one that is not square has min(m, n) singular values.
        key: Draws the start vectors.
        tol: Relative tolerance of both eigenvalues.
        max_matvecs: Stop each run after this many products.

    Returns:
        The condition with its evidence. Derivatives, of any order, are those of the two singular
        values; NaN where it did not converge.

    Raises:
        ValueError: If ``tol`` is negative.
        TypeError: If A is no operator or the key not typed.

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
    found = largest / smallest, largest, smallest
    found = revealed(found, jax.lax.stop_gradient(found), converged)
    return Condition(*found, residual, converged, top.matvecs + bottom.matvecs)
