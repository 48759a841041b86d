"""Losses for regression."""

import jax.numpy as jnp
import optax

from funcdl import _tree
from funcdl._check import concrete
from funcdl._typing import Array, Float, Scalar
from funcdl.losses import _check


def squared_error(predictions: Float[Array, "*b"], targets: Float[Array, "*b"]) -> Scalar:
    r"""Average the squared error, :math:`(\hat y - y)^2`, without a factor ½.

    Args:
        predictions: The predictions, of any shape.
        targets: The targets, of the same shape.

    Returns:
        The mean over all entries.

    Raises:
        ValueError: If the shapes differ or are empty.

    >>> squared_error(jnp.asarray([1.0, 3.0]), jnp.zeros(2)).item()
    5.0
    """
    _check.same_shape(predictions, targets)
    return ((_as_float(predictions) - _as_float(targets)) ** 2).mean()


def absolute_error(predictions: Float[Array, "*b"], targets: Float[Array, "*b"]) -> Scalar:
    r"""Average the absolute error, :math:`|\hat y - y|`; its derivative at 0 is 0.

    Args:
        predictions: The predictions, of any shape.
        targets: The targets, of the same shape.

    Returns:
        The mean over all entries.

    Raises:
        ValueError: If the shapes differ or are empty.

    >>> absolute_error(jnp.asarray([1.0, -3.0]), jnp.zeros(2)).item()
    2.0
    """
    _check.same_shape(predictions, targets)
    error = _as_float(predictions) - _as_float(targets)
    return jnp.where(error == 0, 0, jnp.abs(jnp.where(error == 0, 1, error))).mean()


def huber(
    predictions: Float[Array, "*b"], targets: Float[Array, "*b"], *, delta: float = 1.0
) -> Scalar:
    r"""Average Huber's loss: :math:`e^2 / 2` up to ``delta``, linear beyond.

    Args:
        predictions: The predictions, of any shape.
        targets: The targets, of the same shape.
        delta: The error at which the loss becomes linear, in the units of the targets.

    Returns:
        The mean over all entries.

    Raises:
        ValueError: If the shapes differ or are empty, or ``delta`` is not positive.

    Source: Huber, "Robust estimation of a location parameter", Ann. Math. Statistics 35 (1964).

    >>> huber(jnp.asarray([1.0, 3.0]), jnp.zeros(2)).item()
    1.5
    """
    _check.same_shape(predictions, targets)
    value = concrete(delta)
    if value is not None and not (value > 0).all():
        raise ValueError(f"delta is {delta}; expected a positive number")
    return optax.huber_loss(_as_float(predictions), _as_float(targets), delta=delta).mean()


def _as_float(x: Array) -> Array:
    """Convert to at least float32; integers too, since differences of unsigned ones wrap around."""
    return x.astype(_tree.wide(x.dtype))
