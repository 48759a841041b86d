"""Losses and metrics of classifiers."""

import jax.numpy as jnp
import optax

from funcdl import _tree
from funcdl._mean import Mean
from funcdl._typing import Array, Float, Integer, Scalar
from funcdl.losses import _check


def softmax_cross_entropy(logits: Float[Array, "*b c"], labels: Integer[Array, "*b"]) -> Scalar:
    r"""Average the cross-entropy, :math:`-\log \operatorname{softmax}(z)_y`, in nats.

    Args:
        logits: The logits, ``(..., c)``.
        labels: ``(...)``, integers in 0..c-1. A traced label out of range gives NaN.

    Returns:
        The mean over all labels.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not match, the batch is empty or a label is out of range.

    >>> softmax_cross_entropy(jnp.zeros((2, 4)), jnp.asarray([0, 3])).round(4).item()  # log 4
    1.3863
    """
    return _cross_entropies(logits, labels).mean()


def masked_softmax_cross_entropy(
    logits: Float[Array, "*b c"], labels: Integer[Array, "*b"], mask: Array
) -> Mean:
    """Average the cross-entropy over the labels with weight, such as tokens without padding.

    Args:
        logits: The logits, ``(..., c)``.
        labels: ``(...)``, integers in 0..c-1 wherever the mask is not 0.
        mask: ``(...)``, booleans or weights >= 0.

    Returns:
        ``Mean(total, weight)``, so that sums over batches with different numbers of tokens are
        right.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If shapes do not match, or the mask has negative weights or only zeros.

    >>> loss = masked_softmax_cross_entropy(
    ...     jnp.zeros((1, 3, 4)), jnp.asarray([[0, 1, 0]]), jnp.asarray([[True, True, False]])
    ... )
    >>> loss.weight.item()
    2.0
    """
    logits, labels, weights = _masked(logits, labels, mask)
    return Mean((weights * _cross_entropies(logits, labels)).sum(), weights.sum())


def accuracy(logits: Float[Array, "*b c"], labels: Integer[Array, "*b"]) -> Scalar:
    """Compute the share of labels with the largest logit; of equal logits, the first counts.

    Args:
        logits: The logits, ``(..., c)``.
        labels: ``(...)``, integers in 0..c-1.

    Returns:
        The share, between 0 and 1; NaN where a logit is NaN.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not match, the batch is empty or a label is out of range.

    >>> accuracy(jnp.eye(2), jnp.asarray([0, 0])).item()
    0.5
    """
    _check.labels_fit(logits, labels)
    return _hits(logits, labels).mean()


def masked_accuracy(
    logits: Float[Array, "*b c"], labels: Integer[Array, "*b"], mask: Array
) -> Mean:
    """Compute the weighted share of labels with the largest logit.

    Args:
        logits: The logits, ``(..., c)``.
        labels: ``(...)``, integers in 0..c-1 wherever the mask is not 0.
        mask: ``(...)``, booleans or weights >= 0.

    Returns:
        ``Mean(total, weight)``.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If shapes do not match, or the mask has negative weights or only zeros.
    """
    logits, labels, weights = _masked(logits, labels, mask)
    _check.labels_fit(logits, labels)
    return Mean((weights * _hits(logits, labels)).sum(), weights.sum())


def sigmoid_cross_entropy(logits: Float[Array, "*b"], targets: Float[Array, "*b"]) -> Scalar:
    r"""Average the binary cross-entropy of independent targets, in nats.

    Args:
        logits: The logits, of any shape.
        targets: Probabilities in 0..1, of the same shape.

    Returns:
        The mean over all entries.

    Raises:
        ValueError: If the shapes differ or are empty, or a target is not a probability.

    >>> sigmoid_cross_entropy(jnp.zeros(3), jnp.asarray([0.0, 1.0, 0.5])).round(4).item()  # log 2
    0.6931
    """
    _check.same_shape(logits, targets)
    _check.probabilities(targets)
    return optax.sigmoid_binary_cross_entropy(
        logits.astype(_tree.wide(logits.dtype)), targets
    ).mean()


def _masked(logits: Array, labels: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Zero entries without weight: labels of padding are often -1, and its logits arbitrary."""
    _check.arrays(logits, labels)
    _check.weights_fit(mask, labels.shape)
    weights, on = mask.astype(_tree.wide(logits.dtype)), mask > 0
    if logits.shape[:-1] == labels.shape:  # other shapes are rejected later
        logits = jnp.where(on[..., None], logits, 0)
    return logits, jnp.where(on, labels, 0), weights


def _cross_entropies(logits: Array, labels: Array) -> Array:
    _check.labels_fit(logits, labels)
    logits = logits.astype(_tree.wide(logits.dtype))
    in_range = _check.in_range(labels, logits.shape[-1])
    safe = jnp.where(in_range, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
    return jnp.where(in_range, losses, jnp.nan)


def _hits(logits: Array, labels: Array) -> Array:
    dtype = _tree.wide(logits.dtype)
    is_bad = jnp.isnan(logits).any(axis=-1) | ~_check.in_range(labels, logits.shape[-1])
    return jnp.where(is_bad, jnp.nan, (logits.argmax(axis=-1) == labels).astype(dtype))
