"""Possible labels of pairs (x, label), for Fisher matrices: all of them, or draws."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcdl._check import array, at_least


def every_label(classes: int) -> Callable:
    """List all labels of every example.

    Args:
        classes: The number of classes.

    Returns:
        A function ``outcomes(batch)`` for ``fisher_exact``.

    >>> every_label(3)((jnp.ones((2, 4)), jnp.asarray([0, 1])))[1].tolist()
    [[0, 0], [1, 1], [2, 2]]
    """
    return _every_label(classes)


@functools.cache  # the same function for the same number, so that operators compile only once
def _every_label(classes: int) -> Callable:
    def outcomes(batch: tuple) -> tuple:
        x, label = _pair(batch)
        labels = jnp.arange(classes, dtype=label.dtype)[:, None]
        many = lambda x: jnp.broadcast_to(x[None], (classes, *x.shape))
        return jax.tree.map(many, x), jnp.broadcast_to(labels, (classes, len(label)))

    return outcomes


def draw_label(draws: int = 1) -> Callable:
    """Draw labels of every example from its logits.

    Args:
        draws: The number of labels per example.

    Returns:
        A function ``draw(key, z, batch)`` for ``fisher_mc``, for logits z.

    Raises:
        ValueError: If ``draws < 1``; later, if the batch is not (x, label) with label ``(b,)``.

    >>> draw = draw_label(2)
    >>> batch = jnp.ones((1, 2)), jnp.asarray([0])
    >>> draw(jax.random.key(0), jnp.asarray([[-90.0, 90.0]]), batch)[1].tolist()
    [[1], [1]]
    """
    at_least("draws", draws, 1)
    return _draw_label(draws)


@functools.cache  # for the same reason
def _draw_label(draws: int) -> Callable:
    def draw(key, z, batch: tuple) -> tuple:
        x, label = _pair(batch)
        array("z", z)
        wide = z.astype(jnp.promote_types(z.dtype, jnp.float32))  # bfloat16 would bias the draws
        labels = jax.random.categorical(key, wide, axis=-1, shape=(draws, *label.shape))
        many = lambda x: jnp.broadcast_to(x[None], (draws, *x.shape))
        return jax.tree.map(many, x), labels.astype(label.dtype)

    return draw


def _pair(batch: Any) -> tuple:
    """Split a batch into x and label, one label per example: several would be several outcomes."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or jnp.ndim(batch[1]) != 1:
        raise ValueError(
            f"batch has the structure {jax.tree.map(jnp.shape, batch)}; expected (x, label) with "
            "labels (b,); for other batches, write outcomes(batch) or draw(key, z, batch)"
        )
    array("label", batch[1])
    return tuple(batch)
