"""Information in a joint distribution of two labels, given as a table.

Of one label, or of a table taken as one label of a b values, ``categorical`` has the measures.
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
        log_joint: ``(a, b)``, log-probabilities up to a constant; minus infinity is impossible.
            Logarithms of counts give the plug-in estimate, which is biased low.

    Returns:
        Nats.

    Raises:
        ValueError: If it is no matrix.
        TypeError: If it is not of floats.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.2.

    >>> joint_entropy(jnp.zeros((2, 4))).round(4).item()  # log 8
    2.0794
    """
    return _discrete.entropy(_normalized(log_joint))


def conditional_entropy(log_joint: Array) -> Scalar:
    r"""Evaluate the entropy that the column keeps when the row is known.

    .. math::
        H(B \mid A) = -\sum_{ab} p_{ab} \log \frac{p_{ab}}{\sum_b p_{ab}} = H(A, B) - H(A)

    Args:
        log_joint: ``(a, b)``, as ``joint_entropy`` takes it; transposed it gives
            :math:`H(A \mid B)`.

    Returns:
        Nats; 0 where the row decides the column.

    Raises:
        ValueError: If it is no matrix.
        TypeError: If it is not of floats.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.2.

    >>> conditional_entropy(jnp.zeros((2, 4))).round(4).item()  # log 4
    1.3863
    """
    log_joint = _normalized(log_joint)
    rows = _marginal(log_joint, axis=1)
    # what never comes is excluded by both, and adds nothing
    return _discrete.cross_entropy(log_joint, log_joint - jnp.where(jnp.isneginf(rows), 0, rows))


def mutual_information(log_joint: Array) -> Scalar:
    r"""Evaluate how much one label tells of the other.

    .. math::
        I(A; B) = \sum_{ab} p_{ab} \log \frac{p_{ab}}{p_a\, p_b} \ge 0

    Args:
        log_joint: ``(a, b)``, as ``joint_entropy`` takes it. The plug-in estimate from counts is
            biased high, by about :math:`(a - 1)(b - 1) / 2n`.

    Returns:
        Nats; 0 where the labels are independent.

    Raises:
        ValueError: If it is no matrix.
        TypeError: If it is not of floats.

    Source: Cover and Thomas, "Elements of information theory" (2006), section 2.3.

    >>> mutual_information(jnp.log(jnp.eye(2))).round(4).item()  # log 2
    0.6931
    """
    log_joint = _normalized(log_joint)
    rows, columns = _marginal(log_joint, axis=1), _marginal(log_joint, axis=0)
    return _discrete.kl(log_joint, rows + columns)


def _normalized(log_joint) -> Array:
    log_joint = real_array("log_joint", log_joint, 2)
    return jax.nn.log_softmax(log_joint.reshape(-1)).reshape(log_joint.shape)


def _marginal(log_joint: Array, axis: int) -> Array:
    """Sum probabilities; the derivative of what is impossible is 0, not NaN."""
    never = jnp.isneginf(log_joint).all(axis=axis, keepdims=True)
    possible = jnp.where(never, 0, log_joint)
    return jnp.where(never, -jnp.inf, jax.nn.logsumexp(possible, axis=axis, keepdims=True))
