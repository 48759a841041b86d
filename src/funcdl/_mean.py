"""Means carry their weight: an average over many batches does not depend on the split."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from funcdl import _tree
from funcdl._batching import examples
from funcdl._typing import Array, PyTree, Scalar


class Mean(NamedTuple):
    """A weighted mean before the division.

    Attributes:
        total: The sum of weight times value, a scalar.
        weight: The sum of the weights, a scalar (tokens, unmasked pixels).

    >>> a, b = Mean(jnp.asarray(6.0), jnp.asarray(2.0)), Mean(jnp.asarray(0.0), jnp.asarray(1.0))
    >>> float(value(_tree.add(a, b)))
    2.0
    """

    total: Scalar
    weight: Scalar


def weighted(x: Any, batch: PyTree) -> Mean:
    """Attach its weight to a mean over the examples of ``batch``; a ``Mean`` has one already.

    Returns:
        ``Mean(total, weight)``.

    Raises:
        ValueError: If ``x`` is neither a scalar nor a ``Mean``.
    """
    if isinstance(x, Mean):
        return x
    if jnp.shape(x) != ():
        raise ValueError(
            f"loss or metric has shape {jnp.shape(x)}; expected a scalar mean over the examples "
            "or Mean(total, weight)"
        )
    weight = jnp.asarray(examples(batch), _tree.wide(jnp.result_type(x)))
    return Mean(jnp.asarray(x) * weight, weight)


def value(x: Mean | Array) -> Array:
    """Divide a ``Mean``; return a scalar as it is. A mean over no examples is NaN."""
    return x.total / x.weight if isinstance(x, Mean) else x
