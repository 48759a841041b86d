"""Evaluation of each example once, with the standard error of the means."""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _batching, _mean
from funcdl._typing import PyTree
from funcdl.data import Batches, check
from funcdl.nn import Model, Variables
from funcdl.operators import Estimate
from funcdl.train._objective import Objective, check_objective


def evaluate(
    objective: Objective, variables: Variables | tuple, data: PyTree
) -> dict[str, Estimate]:
    r"""Average the evaluation loss and the metrics over a data set.

    Every example is evaluated as a batch of one, so the mean does not depend on a split into
    batches. The spread over the examples gives the standard error, which for a weighted mean is
    :math:`\sqrt{\tfrac{n}{n-1} \sum_i w_i^2 (m_i - m)^2} / \sum_i w_i` (Cochran, "Sampling
    techniques", 1977).

    Args:
        objective: The objective to measure.
        variables: ``(params, state)``, such as ``run.variables``.
        data: One batch of arrays, or ``Batches`` (each example once, in stored order).

    Returns:
        ``{"loss": Estimate, **metrics}``; the standard error for a single example is NaN.

    Raises:
        DataError: If the data is empty or not finite.
        TypeError: If ``variables`` is not a pair.
    """
    if not isinstance(variables, tuple) or len(variables) != 2:
        raise TypeError(
            f"variables is a {type(variables).__name__}; expected (params, state), such as "
            "run.variables"
        )
    if not _batching.is_many(data):
        data = Batches(data, min(512, max(1, check(data))))
    means = per_example(objective, variables, data)
    return {name: _estimate(mean) for name, mean in means.items()}


@partial(jax.jit, static_argnums=0)
def per_example(
    objective: Objective, variables: Variables | tuple, data: PyTree
) -> dict[str, _mean.Mean]:
    """Measure the evaluation loss and the metrics of every single example.

    Args:
        objective: The objective to measure.
        variables: ``(params, state)``, such as ``run.variables``.
        data: One batch of arrays, or ``Batches`` (in stored order).

    Returns:
        ``{"loss": Mean, **metrics}`` with a leading axis n on ``total`` and ``weight``.
    """

    def one(example) -> dict:
        batch = jax.tree.map(lambda a: a[None], example)
        result = objective.loss(*variables, batch)
        check_objective(result)
        loss, (_, metrics) = result
        return {k: _mean.weighted(v, batch) for k, v in {"loss": loss, **metrics}.items()}

    return _batching.each(jax.vmap(one), data)


@jax.jit
def _estimate(each: _mean.Mean) -> Estimate:
    n, weight = each.weight.size, each.weight.sum()
    mean = each.total.sum() / weight
    deviations = each.total - each.weight * mean  # w_i (m_i - m)
    spread = (deviations**2).sum() * (n / (n - 1) if n > 1 else jnp.nan)
    return Estimate(mean, jnp.sqrt(spread) / weight, 0)


def predict(model: Model, variables: Variables | tuple, x: PyTree, *, size: int = 512) -> PyTree:
    """Apply a model in evaluation to many inputs, ``size`` at a time.

    Args:
        model: The model, which maps ``x`` to outputs.
        variables: ``(params, state)``, such as ``run.variables``.
        x: A pytree of inputs with a leading axis n.
        size: The number of examples in one call of the model.

    Returns:
        Outputs with a leading axis n, in the order of ``x``.

    Raises:
        DataError: If ``x`` is empty.
        ValueError: If ``size < 1``.
    """
    return _predict(
        model, Variables(*variables), Batches(x, min(size, max(1, _batching.examples(x))))
    )


@partial(jax.jit, static_argnums=0)
def _predict(model: Model, variables: Variables | tuple, batches: Batches) -> PyTree:
    return batches.each(lambda x: model.apply(*variables, x)[0])
