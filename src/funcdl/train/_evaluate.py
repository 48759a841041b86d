"""Evaluation of each example once, with the standard error of the means."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _batching, _jaxpr, _mean, _tree
from funcdl._check import concrete
from funcdl._typing import Array, PyTree
from funcdl.data import Batches, check
from funcdl.nn import Model, Variables
from funcdl.operators import Estimate
from funcdl.per_example import ExamplesInteractError
from funcdl.train._objective import Objective, check_model, check_objective
from funcdl.train._out_of_range import out_of_range
from funcdl.train._statistic import Measured


def evaluate(
    objective: Objective, variables: Variables | tuple, data: PyTree
) -> dict[str, Estimate]:
    r"""Average the evaluation loss and the metrics over a data set.

    Every example is evaluated as a batch of one, so the mean does not depend on a split into
    batches. The spread over the examples gives the standard error, which for a weighted mean is
    :math:`\sqrt{\tfrac{n}{n-1} \sum_i w_i^2 (m_i - m)^2} / \sum_i w_i` (Cochran, "Sampling
    techniques", 1977). A ``Statistic`` is measured over all examples together.

    Args:
        objective: The objective to measure.
        variables: ``(params, state)``, such as ``run.variables``.
        data: One batch of arrays, or ``Batches`` (each example once, in stored order).

    Returns:
        ``{"loss": Estimate, **metrics}``; the standard error for a single example is NaN.

    Raises:
        DataError: If the data is empty or not finite.
        ExamplesInteractError: If the loss or a metric of several examples together is not the mean
            of its values for the single examples; this is checked for a few of them.
        TypeError: If ``variables`` is not a pair, or ``data`` is a stream.
        ValueError: If all weights are 0, or a label is out of range; the message names the example.
    """
    data = _resident(objective, variables, data)
    means, estimates = _measured(objective, variables, data)
    _check_means(objective, variables, data, means)
    return {name: _estimate(mean) for name, mean in means.items()} | estimates


def per_example(
    objective: Objective, variables: Variables | tuple, data: PyTree
) -> dict[str, _mean.Mean]:
    """Measure the evaluation loss and the metrics of every single example.

    A ``Statistic`` has no value for a single example and is left out.

    Args:
        objective: The objective to measure.
        variables: ``(params, state)``, such as ``run.variables``.
        data: One batch of arrays, or ``Batches`` (in stored order).

    Returns:
        ``{"loss": Mean, **metrics}`` with a leading axis n on ``total`` and ``weight``.

    Raises:
        DataError: If the data is empty or not finite.
        TypeError: If ``variables`` is not a pair, or ``data`` is a stream.
    """
    return _measured(objective, variables, _resident(objective, variables, data))[0]


def _resident(objective: Objective, variables: Any, data: PyTree) -> Batches:
    """Check the arguments and return the data as ``Batches``."""
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective is a {type(objective).__name__}; expected a train.Objective; the order is "
            "(objective, variables, data)"
        )
    _check_pair(variables)
    _check_resident(data)
    return data if _batching.is_many(data) else Batches(data, min(512, max(1, check(data))))


def _check_pair(variables: Any) -> None:
    if not isinstance(variables, tuple) or len(variables) != 2:
        raise TypeError(
            f"variables is a {type(variables).__name__}; expected (params, state), such as "
            "run.variables"
        )


def _check_resident(data: Any) -> None:
    if _batching.is_stream(data):
        raise TypeError(
            f"data is a {type(data).__name__}, a stream, which may have no end; expected one batch "
            "of arrays, or Batches; for a stream, take its batches one by one"
        )


@partial(jax.jit, static_argnums=0)
def _measured(
    objective: Objective, variables: Variables | tuple, data: Batches
) -> tuple[dict[str, _mean.Mean], dict[str, Estimate]]:
    """Return the means of every example, and the statistics of all examples."""

    def one(example) -> dict:
        batch = jax.tree.map(lambda a: a[None], example)
        return _weighted(objective, variables, batch)

    @jax.jit  # traced once, both for the states and for the loop
    def measure(batch) -> tuple[dict, dict]:
        results = jax.vmap(one)(batch)
        merge = lambda x: x.reshape(-1, *x.shape[2:])  # the batches of one become one batch
        parts = {k: x for k, x in results.items() if isinstance(x, Measured)}
        return {k: x for k, x in results.items() if k not in parts}, jax.tree.map(merge, parts)

    def step(states, batch):
        means, parts = measure(batch)
        new = {k: x.statistic.update(states[k], *x.arguments) for k, x in parts.items()}
        return new, means

    _, parts = jax.eval_shape(lambda: measure(data.rows(0, data.size)))
    parts = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((data.examples, *x.shape[1:]), x.dtype), parts
    )
    start = {k: x.statistic.init(*x.arguments) for k, x in parts.items()}
    states, means = data.scan(step, start)
    return means, {k: parts[k].statistic.result(state) for k, state in states.items()}


def _weighted(objective: Objective, variables: Variables | tuple, batch: PyTree) -> dict:
    """Evaluate a batch; means carry their weights, statistics their arguments."""
    result = objective.loss(*variables, batch)
    check_objective(result)
    loss, (_, metrics) = result
    return {
        name: x if isinstance(x, Measured) else _mean.weighted(x, batch)
        for name, x in {"loss": loss, **metrics}.items()
    }


_FEW = 8  # the examples that are also evaluated together
_NOISE = 64  # the number of rounding errors by which two equal values may differ


def _check_means(
    objective: Objective, variables: Variables | tuple, data: Batches, means: dict[str, _mean.Mean]
) -> None:
    """Check on a few examples that the value of a batch is the mean over its examples.

    Raises:
        ExamplesInteractError: If it is not; the message names the loss or the metric.
    """
    n = data.examples
    if n == 1 or concrete(means["loss"].total) is None:
        return
    for name, mean in means.items():
        if not np.asarray(mean.weight).any():
            raise ValueError(
                f"the weights of {name!r} are 0 for all {n} examples, so it has no mean; check the "
                "mask or the weights in the data"
            )
    _check_example(objective, variables, data, means)
    index = _telling(n, means)
    few = jax.device_get(_together(objective, variables, data.take(index)))
    for name, mean in means.items():
        total, weight = (float(np.asarray(x)[index].sum()) for x in mean)
        alone = total / weight if weight else math.nan
        found, rounding = float(few.values[name]), float(few.roundings[name])
        if not (math.isfinite(found) or math.isfinite(alone)):
            continue
        bound = _NOISE * (rounding + float(few.eps) * abs(found))
        if not abs(found - alone) <= bound:  # also if one of them is NaN
            raise ExamplesInteractError(
                f"{name!r} of {len(index)} examples together is {found:.6g}, but its mean over the "
                f"single examples is {alone:.6g}; expected a mean over examples: divide a sum by "
                "the number of examples; pass a metric that is not a mean, such as AUC, as a "
                "train.Statistic; for a loss that compares examples, call objective.loss(params, "
                "state, batch) on whole batches"
            )


def _check_example(
    objective: Objective, variables: Variables | tuple, data: Batches, means: dict[str, _mean.Mean]
) -> None:
    """Search the first example that is not finite for a label out of range, and other faults."""
    is_finite = np.all([np.isfinite(np.asarray(m.total)) for m in means.values()], axis=0)
    if is_finite.all():
        return
    first = int(np.argmin(is_finite))
    example = data.take(np.asarray([first]))
    found = out_of_range(partial(_loss, objective), Variables(*variables), example)
    if found is not None:
        raise ValueError(str(found._replace(index=(first, *(found.index or ())[1:]))))
    try:
        objective.loss(*variables, example)
    except ValueError as error:
        raise ValueError(f"example {first} of the data: {error}") from None


def _loss(objective: Objective, variables: Variables, batch: PyTree) -> PyTree:
    return objective.loss(*variables, batch)


def _telling(n: int, means: dict[str, _mean.Mean]) -> np.ndarray:
    """Choose a few examples: spread evenly, and with and without a finite value where both occur.

    The recall of a single example, for instance, is only defined for a positive one.

    Returns:
        The stored indices.
    """
    index = np.linspace(0, n - 1, min(n, _FEW)).astype(np.int32)
    mixed = []
    for mean in means.values():
        is_finite = np.isfinite(np.asarray(mean.total))
        if is_finite.any() and not is_finite.all():
            mixed += [np.argmax(is_finite), np.argmin(is_finite)]
    index[: len(mixed)] = mixed[: len(index)]
    return np.unique(index)


class _Few(NamedTuple):
    """A few examples, evaluated as one batch.

    Attributes:
        values: The values by name.
        roundings: The changes of the values if parameters and data change by a rounding error.
        eps: The relative rounding error of the narrowest dtype in the computation.
    """

    values: dict
    roundings: dict
    eps: Array


@partial(jax.jit, static_argnums=0)
def _together(objective: Objective, variables: Variables | tuple, batch: PyTree) -> _Few:
    @jax.jit  # traced once
    def values(variables, batch):
        results = _weighted(objective, variables, batch)
        return {k: _mean.value(x) for k, x in results.items() if not isinstance(x, Measured)}

    variables, batch = _tree.strong((variables, batch))
    jaxpr = jax.make_jaxpr(values)(variables, batch)
    dtypes = {jnp.result_type(v.aval) for e in _jaxpr.equations(jaxpr) for v in e.outvars}
    eps = max(float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.floating))

    def shifted(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x * (1 + eps * jax.random.rademacher(jax.random.key(0), x.shape, x.dtype))

    found = values(variables, batch)
    moved = values(*jax.tree.map(shifted, (variables, batch)))
    return _Few(found, jax.tree.map(lambda a, b: jnp.abs(a - b), found, moved), jnp.asarray(eps))


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
        DataError: If ``x`` is empty or not finite.
        TypeError: If ``model`` is not a ``Model``, ``variables`` is not a pair, or ``x`` is a
            stream.
        ValueError: If ``size < 1``, or an output has no leading axis of examples.
    """
    check_model("model", model, "train.predict(model, variables, x)")
    _check_pair(variables)
    _check_resident(x)
    check(x)
    return _predict(
        model, Variables(*variables), Batches(x, min(size, max(1, _batching.examples(x))))
    )


@partial(jax.jit, static_argnums=0)
def _predict(model: Model, variables: Variables | tuple, batches: Batches) -> PyTree:
    def outputs(x):
        y, _ = model.apply(*variables, x)
        n = _batching.examples(x)
        for path, leaf in jax.tree_util.tree_leaves_with_path(y):
            if jnp.shape(leaf)[:1] != (n,):
                raise ValueError(
                    f"the output at path {_tree.path_text(path)!r} has shape {jnp.shape(leaf)} for "
                    f"{n} examples; expected a leading axis of examples; predict cannot combine "
                    "batches of other outputs: let the model return them only in training"
                )
        return y

    return batches.each(outputs)
