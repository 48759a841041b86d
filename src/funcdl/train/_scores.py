"""The statistics that are ready to use, each with a standard error.

All of them take ``(outputs, labels)`` or ``(outputs, labels, weights)``. The standard errors follow
from the delta method: with the influence psi_i of example i on the value, the variance is
n / (n - 1) times the sum of psi_i squared. A label that is out of range makes a value NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array
from funcdl.operators import Estimate
from funcdl.train._statistic import Statistic, collecting, weights_like

_BINS = 15  # of the calibration error (Guo et al., 2017)


def _stderr(influence: Array, weights: Array) -> Array:
    """Return the standard error of a value from the influence of every example."""
    n = (weights != 0).sum()
    return jnp.sqrt((influence**2).sum() * jnp.where(n > 1, n / jnp.maximum(n - 1, 1), jnp.nan))


def _checked_labels(outputs: Array, labels: Array, classes: int) -> Array:
    """Check labels of classes; return whether each is in range."""
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == bool):
        raise TypeError(f"labels have dtype {labels.dtype}; expected integer class indices")
    expected = outputs.shape[: labels.ndim]
    if labels.shape != expected or outputs.ndim - labels.ndim not in (0, 1):
        raise ValueError(
            f"outputs {outputs.shape} and labels {labels.shape} do not match; expected labels of "
            f"shape {outputs.shape[:-1]}, or {outputs.shape} for one logit per label"
        )
    return (labels >= 0) & (labels < classes)


def _binary(outputs: Array, labels: Array, weights: Any = None) -> dict[str, Array]:
    if outputs.ndim == 2 and outputs.shape[1] == 2:
        outputs = outputs[:, 1] - outputs[:, 0]
    if outputs.ndim != 1:
        raise ValueError(
            f"outputs have shape {outputs.shape}; auc takes one score per example, (n,), or the "
            "logits of two classes, (n, 2)"
        )
    is_valid = _checked_labels(outputs, labels, 2) & ~jnp.isnan(outputs)
    weights = weights_like(weights, labels.shape)
    return {
        "score": outputs.astype(_tree.wide(outputs.dtype)),
        "positive": jnp.where(labels == 1, weights, 0) * jnp.where(is_valid, 1, jnp.nan),
        "negative": jnp.where(labels == 0, weights, 0),
    }


# The placement of a positive example is the share of the negative ones below its score, ties
# counted half; the value is the mean placement. The placements of both classes give the variance
# (DeLong et al., "Comparing the areas under two or more correlated ROC curves", Biometrics 1988).
# One sort, cumulated weights and binary searches find all placements.
def _auc(rows: dict[str, Array]) -> tuple[Array, Array]:
    score, positive, negative = rows["score"], rows["positive"], rows["negative"]
    order = jnp.argsort(score)
    ordered = score[order]
    first, last = (jnp.searchsorted(ordered, score, side=side) for side in ("left", "right"))

    def below(weights: Array) -> Array:
        sums = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights[order])])
        return (sums[first] + sums[last]) / 2 / weights.sum()

    of_positive, of_negative = below(negative), 1 - below(positive)
    value = (positive * of_positive).sum() / positive.sum()
    parts = [
        _stderr(weights * (placement - value) / weights.sum(), weights)
        for weights, placement in ((positive, of_positive), (negative, of_negative))
    ]
    return value, jnp.hypot(*parts)


auc: Statistic = collecting(_binary, _auc)
"""The area under the ROC curve: the probability that a positive example has the larger score."""


class _Confusion(NamedTuple):
    """Sums over the examples of each pair of a true and a predicted class.

    Attributes:
        weights: ``(c, c)``, the sums of the weights; rows are true classes.
        squares: ``(c, c)``, the sums of the squared weights.
        count: The number of examples with a weight.
    """

    weights: Array
    squares: Array
    count: Array


def _ratio(a: Array, b: Array, undefined: float) -> Array:
    return jnp.where(b == 0, undefined, a / jnp.where(b == 0, 1, b))


def _of_confusion(score: Callable[[Array, Array, Array, float], Array]) -> Statistic:
    """Build a statistic of the confusion matrix.

    Args:
        score: ``score(hits, predicted, actual, undefined)``, the scores of the classes from their
            weights.

    Returns:
        The statistic: the score of class 1 of two classes, and of more classes the mean over those
        that occur.
    """

    def init(outputs, labels, weights=None) -> _Confusion:
        del labels, weights
        c = outputs.shape[1] if len(outputs.shape) == 2 else 2
        return _Confusion(jnp.zeros((c, c)), jnp.zeros((c, c)), jnp.int32(0))

    def value(matrix: Array) -> Array:
        matrix = matrix + 0 * matrix.sum()  # NaN in one entry makes all of them NaN
        hits, predicted, actual = jnp.diagonal(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
        if len(matrix) == 2:
            return score(hits, predicted, actual, jnp.nan)[1]
        occurs = predicted + actual != 0
        return (score(hits, predicted, actual, 0.0) * occurs).sum() / occurs.sum()

    def result(state: _Confusion) -> Estimate:
        # the value does not change if all weights are scaled, so the slopes are the influences
        slopes, n = jax.grad(value)(state.weights), state.count
        factor = jnp.where(n > 1, n / jnp.maximum(n - 1, 1), jnp.nan)
        spread = (jnp.where(state.squares == 0, 0, slopes) ** 2 * state.squares).sum() * factor
        return Estimate(value(state.weights), jnp.sqrt(spread))

    return Statistic(init, _with_batch, result)


def _with_batch(
    state: _Confusion, outputs: Array, labels: Array, weights: Any = None
) -> _Confusion:
    """Add a batch to the confusion matrix."""
    if outputs.ndim not in (1, 2) or labels.ndim != 1:
        raise ValueError(
            f"outputs {outputs.shape} and labels {labels.shape} do not match; expected logits "
            "(n, c) or (n,), and labels (n,)"
        )
    is_valid = _checked_labels(outputs, labels, len(state.weights))
    weights = weights_like(weights, labels.shape)
    predicted = outputs.argmax(axis=1) if outputs.ndim == 2 else (outputs > 0).astype(int)
    is_valid &= ~jnp.isnan(outputs.reshape(len(outputs), -1)).any(axis=1)
    weights = jnp.where(is_valid | (weights == 0), weights, jnp.nan)
    place = jnp.where(is_valid, labels, 0).astype(int), predicted
    return _Confusion(
        weights=state.weights.at[place].add(weights),
        squares=state.squares.at[place].add(weights**2),
        count=state.count + (weights != 0).sum(),
    )


precision: Statistic = _of_confusion(lambda hits, predicted, actual, u: _ratio(hits, predicted, u))
"""The share of the examples predicted as a class that belong to it."""

recall: Statistic = _of_confusion(lambda hits, predicted, actual, u: _ratio(hits, actual, u))
"""The share of the examples of a class that are predicted as it."""

f1: Statistic = _of_confusion(
    lambda hits, predicted, actual, u: _ratio(2 * hits, predicted + actual, u)
)
"""The harmonic mean of precision and recall."""


def _of_regression(outputs: Array, targets: Array, weights: Any = None) -> dict[str, Array]:
    if outputs.shape != targets.shape or outputs.ndim not in (1, 2):
        raise ValueError(
            f"outputs {outputs.shape} and targets {targets.shape} do not match; expected the same "
            "shape, (n,) or (n, d)"
        )
    wide = lambda x: x.astype(_tree.wide(jnp.result_type(x, jnp.float32))).reshape(len(x), -1)
    return {
        "residual": wide(targets) - wide(outputs),
        "target": wide(targets),
        "weight": weights_like(weights, outputs.shape[:1]),
    }


def _r2(rows: dict[str, Array]) -> tuple[Array, Array]:
    weight = rows["weight"][:, None]
    mean = (weight * rows["target"]).sum(axis=0) / weight.sum()
    # both are divided by the largest deviation, whose square might not be representable
    deviation = jnp.where(weight != 0, rows["target"] - mean[None], 0)
    peak = jnp.abs(deviation).max(axis=0, keepdims=True)
    largest = jnp.abs(rows["target"]).max(axis=0, keepdims=True)
    is_constant = peak <= 4 * jnp.finfo(peak.dtype).eps * largest
    peak = jnp.where(is_constant, jnp.nan, peak)  # constant up to rounding
    squares = (deviation / peak) ** 2
    errors = (jnp.where(weight != 0, rows["residual"], 0) / peak) ** 2
    total = (weight * squares).sum(axis=0, keepdims=True)
    ratio = (weight * errors).sum(axis=0, keepdims=True) / total
    influence = weight * (ratio * squares - errors) / total
    return 1 - ratio.mean(), _stderr(influence.mean(axis=1), rows["weight"])


r2: Statistic = collecting(_of_regression, _r2)
"""The share of the variance of the targets that the outputs explain, the mean over the columns."""


def _of_tokens(logits: Array, labels: Array, weights: Any = None) -> dict[str, Array]:
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"logits {logits.shape} and labels {labels.shape} do not match; expected labels of "
            f"shape {logits.shape[:-1]}, all axes but the classes"
        )
    is_valid = _checked_labels(logits, labels, logits.shape[-1])
    weights = weights_like(weights, labels.shape)
    logs = jax.nn.log_softmax(logits.astype(_tree.wide(logits.dtype)))
    index = jnp.where(is_valid, labels, 0)[..., None]
    losses = jnp.where(is_valid, -jnp.take_along_axis(logs, index, axis=-1)[..., 0], jnp.nan)
    losses = jnp.where(weights == 0, 0, weights * losses)
    sums = lambda x: x.reshape(len(x), -1).sum(axis=1)
    return {"total": sums(losses), "weight": sums(weights)}


def _perplexity(rows: dict[str, Array]) -> tuple[Array, Array]:
    total, weight = rows["total"], rows["weight"]
    mean = total.sum() / weight.sum()
    stderr = _stderr((total - weight * mean) / weight.sum(), weight)
    return jnp.exp(mean), jnp.exp(mean) * stderr


perplexity: Statistic = collecting(_of_tokens, _perplexity)
"""The exponential of the mean cross-entropy of all tokens."""


def _of_confidence(outputs: Array, labels: Array, weights: Any = None) -> dict[str, Array]:
    if outputs.ndim not in (1, 2) or labels.ndim != 1:
        raise ValueError(
            f"outputs {outputs.shape} and labels {labels.shape} do not match; expected logits "
            "(n, c) or (n,), and labels (n,)"
        )
    outputs = outputs.astype(_tree.wide(outputs.dtype))
    logits = jnp.stack([jnp.zeros_like(outputs), outputs], 1) if outputs.ndim == 1 else outputs
    is_valid = _checked_labels(outputs, labels, logits.shape[1])
    confidence = jnp.exp(jax.nn.log_softmax(logits).max(axis=1))
    gap = confidence - (logits.argmax(axis=1) == labels)
    return {
        "gap": jnp.where(is_valid, gap, jnp.nan),
        "bin": (jnp.ceil(confidence * _BINS) - 1).clip(0, _BINS - 1).astype(int),
        "weight": weights_like(weights, labels.shape),
    }


def _calibration(rows: dict[str, Array]) -> tuple[Array, Array]:
    weight, bins = rows["weight"], rows["bin"]
    gap = jnp.where(weight == 0, 0, rows["gap"])
    sums = jnp.zeros(_BINS, gap.dtype).at[bins].add(weight * gap)
    value = jnp.abs(sums).sum() / weight.sum()
    influence = weight * (jnp.sign(sums)[bins] * gap - value) / weight.sum()
    return value, _stderr(influence, weight)


expected_calibration_error: Statistic = collecting(_of_confidence, _calibration)
"""The mean distance between confidence and accuracy over 15 bins of the confidence."""
