"""What every loss refuses: broadcasting, labels that are none, batches of nothing."""

import jax.numpy as jnp
import numpy as np

from funcdl._check import concrete
from funcdl._typing import Array


def same_shape(predictions: Array, targets: Array) -> None:
    """Refuse to broadcast.

    Raises:
        ValueError: If the shapes differ or hold no number.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions {predictions.shape} and targets {targets.shape} differ; a loss does not "
            "broadcast, reshape one of them"
        )
    not_empty(predictions)


def labels_fit(logits: Array, labels: Array) -> None:
    """Refuse labels that do not belong to the logits.

    Raises:
        TypeError: If the labels are no integers.
        ValueError: If the shapes do not fit, there is no example, or a label that can be seen (not
            traced) is out of range.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels have dtype {labels.dtype} and shape {labels.shape}; expected integer class "
            "indices, one-hot rows become such by argmax(-1)"
        )
    if logits.ndim == 0:
        raise ValueError("logits are a scalar; expected a last axis of classes")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits {logits.shape} and labels {labels.shape} do not fit; expected labels of shape "
            f"{logits.shape[:-1]}, all axes but the classes; a loss does not broadcast"
        )
    not_empty(logits)
    seen = concrete(labels)
    if seen is not None:
        wrong = np.argwhere((seen < 0) | (seen >= logits.shape[-1]))
        if wrong.size:
            at = tuple(int(i) for i in wrong[0])
            raise ValueError(
                f"label {int(seen[at])} at index {at} is out of range; expected 0 to "
                f"{logits.shape[-1] - 1}, as logits {logits.shape} have {logits.shape[-1]} classes"
            )


def not_empty(x: Array) -> None:
    """Refuse a batch without numbers.

    Raises:
        ValueError: If there are none.
    """
    if x.size == 0:
        raise ValueError(f"the batch is empty: predictions have shape {x.shape}; a mean needs one")


def weights_fit(weights: Array, shape: tuple) -> None:
    """Refuse weights that weigh nothing or do not belong.

    Raises:
        ValueError: If the shape differs, or weights that can be seen are negative or all zero.
    """
    if weights.shape != shape:
        raise ValueError(f"mask has shape {weights.shape}; expected {shape}, one weight a label")
    seen = concrete(weights)
    if seen is not None and not (np.isfinite(seen).all() and (seen >= 0).all() and seen.any()):
        raise ValueError(
            f"mask has minimum {seen.min()} and maximum {seen.max()}; expected finite weights "
            ">= 0, not all zero"
        )


def probabilities(targets: Array) -> None:
    """Refuse targets that can be seen to be no probabilities.

    Raises:
        ValueError: If one is not in 0..1.
    """
    seen = concrete(targets)
    if seen is not None and not ((seen >= 0) & (seen <= 1)).all():
        raise ValueError(
            f"targets have minimum {seen.min()} and maximum {seen.max()}; expected probabilities "
            "in 0..1"
        )
