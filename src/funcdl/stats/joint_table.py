"""Information in a joint distribution of two labels, given as a table.

For a single label, or a table regarded as one label with a b values, use ``categorical``.
"""

import jax
import jax.numpy as jnp

from funcdl._check import real_array
from funcdl._typing import Array, Scalar
from funcdl.stats import _discrete_entropy as _discrete

__all__ = ["conditional_entropy", "joint_entropy", "mutual_information"]


def joint_entropy(log_joint: Array) -> Scalar:
    r"""Evaluate the entropy of both labels, :math:`H(A, B) = -\sum_{ab} p_{ab} \log p_{ab}`.

    Args:
        log_joint: ``(a, b)``, log-probabilities up to a constant; minus infinity means impossible.
            Logarithms of counts give the plug-in estimate, which is biased low.

    Returns:
        The entropy in nats.

    Raises:
        ValueError: If it is not a matrix.
        TypeError: If it is not of a float dtype.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.2.

    >>> joint_entropy(jnp.zeros((2, 4))).round(4).item()  # log 8
    2.0794
    """
    return _discrete.entropy(_normalized(log_joint))


def conditional_entropy(log_joint: Array) -> Scalar:
    r"""Evaluate the entropy of the column when the row is known.

    .. math::
        H(B \mid A) = -\sum_{ab} p_{ab} \log \frac{p_{ab}}{\sum_b p_{ab}} = H(A, B) - H(A)

    Args:
        log_joint: ``(a, b)``, as in ``joint_entropy``; its transpose gives :math:`H(A \mid B)`.

    Returns:
        The entropy in nats; 0 where the row determines the column.

    Raises:
        ValueError: If it is not a matrix.
        TypeError: If it is not of a float dtype.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.2.

    >>> conditional_entropy(jnp.zeros((2, 4))).round(4).item()  # log 4
    1.3863
    """
    log_joint = _normalized(log_joint)
    rows = _marginal(log_joint, axis=1)
    # impossible pairs are excluded by both, and add nothing
    return _discrete.cross_entropy(log_joint, log_joint - jnp.where(jnp.isneginf(rows), 0, rows))


def mutual_information(log_joint: Array) -> Scalar:
    r"""Evaluate the mutual information of the two labels.

    .. math::
        I(A; B) = \sum_{ab} p_{ab} \log \frac{p_{ab}}{p_a\, p_b} \ge 0

    Args:
        log_joint: ``(a, b)``, as in ``joint_entropy``. The plug-in estimate from counts is
            biased high, by about :math:`(a - 1)(b - 1) / 2n`.

    Returns:
        The mutual information in nats; 0 where the labels are independent.

    Raises:
        ValueError: If it is not a matrix.
        TypeError: If it is not of a float dtype.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.3.

    >>> mutual_information(jnp.log(jnp.eye(2))).round(4).item()  # log 2
    0.6931
    """
    log_joint = _normalized(log_joint)
    rows, columns = _marginal(log_joint, axis=1), _marginal(log_joint, axis=0)
    return _discrete.kl(log_joint, rows + columns)


def _normalized(log_joint: Array) -> Array:
    log_joint = real_array("log_joint", log_joint, 2)
    return jax.nn.log_softmax(log_joint.reshape(-1)).reshape(log_joint.shape)


def _marginal(log_joint: Array, axis: int) -> Array:
    """Sum probabilities; the derivative in impossible entries is 0, not NaN."""
    never = jnp.isneginf(log_joint).all(axis=axis, keepdims=True)
    possible = jnp.where(never, 0, log_joint)
    return jnp.where(never, -jnp.inf, jax.nn.logsumexp(possible, axis=axis, keepdims=True))
