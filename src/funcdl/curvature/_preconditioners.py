"""Pairs for ``preconditioned``: Kronecker factors, an exact diagonal, an estimated diagonal."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import check_key
from funcdl._typing import Array, Key, LossFunction, ModelFunction
from funcdl.curvature._hessian import hessian
from funcdl.curvature._kfac import from_factors
from funcdl.curvature._preconditioned import Preconditioner
from funcdl.operators import from_diagonal
from funcdl.per_example import ggn_diagonal, ggn_factors


def kfac_preconditioner(f: ModelFunction, loss: LossFunction, *, damping: float) -> Preconditioner:
    """Precondition by ``kfac``: the means of the factors are inverted in their eigenbases.

    Args:
        f: The model, as in ``kfac``.
        loss: The loss, as in ``kfac``.
        damping: The number that is added to every eigenvalue.

    Returns:
        The pair that ``preconditioned`` takes.

    Raises:
        ValueError: If the damping is negative.
    """
    _check_damping(damping)
    sums = ggn_factors(f, loss)

    def measure(params, batch, _step):
        factors, weight = sums(params, batch)
        return _tree.scale(1 / weight, factors)

    return Preconditioner(measure, lambda params, mean: from_factors(params, mean).inv(damping))


def ggn_diagonal_preconditioner(
    f: ModelFunction, loss: LossFunction, *, damping: float
) -> Preconditioner:
    """Precondition by the exact diagonal of the Gauss-Newton matrix.

    Args:
        f: The model, as in ``ggn``; the examples must not interact.
        loss: The loss, as in ``ggn``.
        damping: The number that is added to the diagonal.

    Returns:
        The pair that ``preconditioned`` takes.

    Raises:
        ValueError: If the damping is negative.
    """
    _check_damping(damping)
    diagonal = ggn_diagonal(f, loss)
    measure = lambda params, batch, _step: diagonal(params, batch)
    return Preconditioner(measure, lambda params, mean: from_diagonal(mean, psd=True).inv(damping))


def hutchinson_preconditioner(
    loss: Callable, *, key: Key[Array, ""], damping: float
) -> Preconditioner:
    r"""Precondition by the absolute diagonal of the Hessian, estimated as :math:`z \circ H z`.

    Each measurement takes one random sign vector z; where the mean is negative, its absolute value
    is used.

    Args:
        loss: The loss, as in ``hessian``.
        key: The random key for the signs.
        damping: The number that is added to the diagonal.

    Returns:
        The pair that ``preconditioned`` takes.

    Raises:
        TypeError: If the key is not typed.
        ValueError: If the damping is negative.

    Source: Yao et al., "ADAHESSIAN: an adaptive second order optimizer for machine learning",
    AAAI (2021).
    """
    check_key(key)
    _check_damping(damping)

    def measure(params, batch, step):
        z = _tree.random(jax.random.fold_in(key, step), params, jax.random.rademacher)
        return jax.tree.map(jnp.multiply, z, hessian(loss, params, batch) @ z)

    def invert(_params, mean):
        return from_diagonal(jax.tree.map(jnp.abs, mean), psd=True).inv(damping)

    return Preconditioner(measure, invert)


def _check_damping(damping: float) -> None:
    if not damping >= 0:
        raise ValueError(f"damping is {damping}; expected a number >= 0")
