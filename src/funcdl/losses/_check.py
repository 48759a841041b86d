"""Checks that all losses share: shapes, labels, empty batches, weights."""

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._check import array, concrete
from funcdl._typing import Array


def same_shape(predictions: Array, targets: Array) -> None:
    """Raise an error if predictions and targets would have to be broadcast.

    Raises:
        ValueError: If the shapes differ, or the arrays are empty.
    """
    if getattr(predictions, "shape", None) != getattr(targets, "shape", ()):
        array("predictions", predictions)
        array("targets", targets)
        raise ValueError(
            f"predictions {predictions.shape} and targets {targets.shape} differ; a loss does not "
            "broadcast, so reshape one of them"
        )
    not_empty(predictions)


def labels_fit(logits: Array, labels: Array) -> None:
    """Raise an error if labels do not belong to the logits.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not match, the batch is empty, or a label is out of range;
            traced labels are not checked.
    """
    arrays(logits, labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels have dtype {labels.dtype} and shape {labels.shape}; expected integer class "
            "indices; convert one-hot rows with argmax(-1)"
        )
    if logits.ndim == 0:
        raise ValueError("logits are a scalar; expected a last axis of classes")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits {logits.shape} and labels {labels.shape} do not match; expected labels of "
            f"shape {logits.shape[:-1]}, all axes but the classes; a loss does not broadcast"
        )
    not_empty(logits)
    values = concrete(labels)
    if values is not None:
        wrong = np.argwhere((values < 0) | (values >= logits.shape[-1]))
        if wrong.size:
            index = tuple(int(i) for i in wrong[0])
            raise ValueError(
                f"label {int(values[index])} at index {index} is out of range; expected 0 to "
                f"{logits.shape[-1] - 1}, as logits {logits.shape} have {logits.shape[-1]} classes"
            )


def in_range(labels: Array, classes: int) -> Array:
    """Tell which labels are in 0..classes-1."""
    return labels_in_range(labels, np.int32(classes))  # the dtype of uint8 labels may not hold it


@jax.jit  # a call of its own, by whose name ``train`` finds a traced label that is out of range
def labels_in_range(labels: Array, classes: Array) -> Array:
    """Compare labels with the number of classes."""
    return (labels >= 0) & (labels < classes)


def arrays(logits: Array, labels: Array) -> None:
    """Raise an error if logits or labels are not arrays of numbers.

    Raises:
        TypeError: If they are not; the message names the argument.
    """
    array("logits", logits)
    array("labels", labels)


def not_empty(x: Array) -> None:
    """Raise an error if a batch is empty.

    Raises:
        ValueError: If it is.
    """
    if x.size == 0:
        raise ValueError(
            f"the batch is empty: predictions have shape {x.shape}; a mean needs at least one entry"
        )


def weights_fit(weights: Array, shape: tuple) -> None:
    """Raise an error if weights do not belong to the labels, or are all zero.

    Raises:
        ValueError: If the shapes differ, or weights are negative or all zero; traced weights are
            not checked.
    """
    array("mask", weights)
    if weights.shape != shape:
        raise ValueError(f"mask has shape {weights.shape}; expected {shape}, one weight per label")
    values = concrete(weights)
    if values is None:
        return
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ValueError(
            f"mask has minimum {values.min()} and maximum {values.max()}; expected finite weights "
            ">= 0, not all zero"
        )


def probabilities(targets: Array) -> None:
    """Raise an error if targets are not probabilities; traced targets are not checked.

    Raises:
        ValueError: If one is not in 0..1.
    """
    values = concrete(targets)
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"targets have minimum {values.min()} and maximum {values.max()}; expected "
            "probabilities in 0..1"
        )
