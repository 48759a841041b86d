"""The pair ``Objective(init, loss)``: a training objective as two pure functions."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _mean
from funcdl._typing import LossFunction, PyTree, Scalar
from funcdl.nn import Model, Variables
from funcdl.train._statistic import Measured, Statistic

Criterion = Callable[..., Scalar | _mean.Mean]  # criterion(outputs, *targets), a loss or a metric


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss with everything it needs, as a pair of pure functions.

    Attributes:
        init: ``init(key, batch) -> Variables(params, state)``; reads only shapes.
        loss: ``loss(params, state, batch, key=None) -> (loss, (state, metrics))``. A key means
            training. The loss and the metrics (a dict) are scalar means over the examples, or
            ``Mean(total, weight)``.
    """

    init: Callable[..., Variables]
    loss: Callable[..., tuple]


def objective(init: Callable[..., PyTree], loss: LossFunction) -> Objective:
    """Turn a plain loss into an ``Objective``.

    Args:
        init: ``init(key, batch) -> params``.
        loss: ``loss(params, batch)``, a scalar mean over the examples or ``Mean(total, weight)``.

    Returns:
        The pair. It has no state and no metrics, and it computes the same in training as in
        evaluation.

    >>> line = objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> params, state = line.init(jax.random.key(0), jnp.ones(4))
    >>> line.loss(params, state, jnp.ones(4))[0].item()
    1.0
    """
    return Objective(
        init=lambda key, batch: Variables(init(key, batch), {}),
        loss=lambda params, state, batch, key=None: (loss(params, batch), (state, {})),
    )


def supervised(
    model: Model, loss: Criterion, metrics: dict[str, Criterion | Statistic] | None = None
) -> Objective:
    """Build the objective that compares a model's outputs with targets.

    A batch is ``(x, *targets)``.

    Args:
        model: The model, which maps ``x`` to outputs.
        loss: ``loss(outputs, *targets)``, a scalar mean or a ``Mean``.
        metrics: Further functions of this form by name; they are reported, not minimized. A
            ``Statistic``, such as ``train.auc``, is reported by ``evaluate`` only.

    Returns:
        The objective.

    Raises:
        TypeError: If ``model`` is not a ``Model``, or the loss or a metric is not a function.
        ValueError: If a metric is named ``"loss"``.

    >>> from funcdl import losses, nn
    >>> model = nn.Model(
    ...     init=lambda key, x: Variables(jnp.ones(()), {}),
    ...     apply=lambda params, state, x, key=None: (params * x, state),
    ... )
    >>> fit_line = supervised(model, losses.squared_error)
    >>> fit_line.loss(jnp.asarray(2.0), {}, (jnp.ones(3), jnp.zeros(3)))[0].item()
    4.0
    """
    metrics = dict(metrics or {})
    _check_names(metrics)

    def value(params, state, batch, key=None):
        x, *targets = batch
        outputs, state = model.apply(params, state, x, key)
        named = {
            name: Measured(f, (outputs, *targets))
            if isinstance(f, Statistic)
            else f(outputs, *targets)
            for name, f in metrics.items()
            if key is None or not isinstance(f, Statistic)  # training reports means only
        }
        return loss(outputs, *targets), (state, named)

    return Objective(init=lambda key, batch: model.init(key, batch[0]), loss=value)


def outputs(model: Model, state: PyTree) -> Partial:
    """Return the evaluation of a model, ``f(params, batch) -> outputs``, at a fixed state.

    Args:
        model: The model, which maps ``x`` to outputs.
        state: The state of a run, ``run.state``.

    Returns:
        A function of ``params`` and a batch ``(x, *targets)``. It is a pytree whose leaves are the
        state.
    """
    return Partial(_outputs, model, state)


def _outputs(model: Model, state: PyTree, params: PyTree, batch: PyTree) -> PyTree:
    return model.apply(params, state, batch[0])[0]


def eval_loss(objective: Objective, state: PyTree) -> Partial:
    """Return the evaluation loss of an objective, ``loss(params, batch)``, at a fixed state.

    This plain scalar function is the argument of curvature, influence and attacks.

    Args:
        objective: The objective.
        state: The state of a run, ``run.state``. Its arrays are leaves of the result, so a new
            state does not cause a new compilation.

    Returns:
        A function of ``params`` and ``batch`` that returns a scalar, or a ``Mean`` where the
        objective returns one.
    """
    return Partial(_eval_loss, objective, state)


def _eval_loss(
    objective: Objective, state: PyTree, params: PyTree, batch: PyTree
) -> Scalar | _mean.Mean:
    return objective.loss(params, state, batch)[0]


def check_objective(result: PyTree) -> None:
    """Check the value that ``objective.loss`` returned, while it is traced.

    Raises:
        TypeError: If it is not ``(loss, (state, metrics))``.
        ValueError: If the loss or a metric is neither a scalar nor a ``Mean``.
    """
    try:
        loss, (_state, metrics) = result
        dict(metrics)
    except (TypeError, ValueError):
        raise TypeError(
            f"objective.loss returned shapes {jax.tree.map(jnp.shape, result)}; expected "
            "(loss, (state, metrics)); for a plain loss, use train.objective(init, loss)"
        ) from None
    _check_names(metrics)
    for name, x in {"loss": loss, **metrics}.items():
        if not isinstance(x, (_mean.Mean, Measured)) and jnp.shape(x) != ():
            raise ValueError(
                f"{name!r} has shape {jnp.shape(x)}; expected a scalar mean over the examples or "
                "Mean(total, weight)"
            )


def _check_names(metrics: dict) -> None:
    if "loss" in metrics:
        raise ValueError("metrics has an entry 'loss', the reserved name of the loss; rename it")
