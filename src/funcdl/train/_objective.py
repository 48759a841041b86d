"""The pair ``Objective(init, loss)``: what is minimized, as two pure functions."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _mean
from funcdl._typing import PyTree
from funcdl.nn import Model, Variables


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss with everything it needs, as a pair of pure functions.

    Attributes:
        init: ``init(key, batch) -> Variables(params, state)``; reads only shapes.
        loss: ``loss(params, state, batch, key=None) -> (loss, (state, metrics))``. A key means
            training. Loss and metrics (a dict) are scalar means over the examples, or
            ``Mean(total, weight)``.
    """

    init: Callable
    loss: Callable


def objective(init: Callable, loss: Callable) -> Objective:
    """Lift a plain loss to an ``Objective``.

    Args:
        init: ``init(key, batch) -> params``.
        loss: ``loss(params, batch)``, a scalar mean over the examples or ``Mean(total, weight)``.

    Returns:
        The pair; it has no state and no metrics, and training is no different from evaluation.

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
    model: Model, loss: Callable, metrics: dict[str, Callable] | None = None
) -> Objective:
    """Compare a model's outputs with targets; a batch is ``(x, *targets)``.

    Args:
        model: Maps ``x`` to outputs.
        loss: ``loss(outputs, *targets)``, a scalar mean or ``Mean``.
        metrics: More functions like it, by name; they are reported, not minimized.

    Returns:
        The objective.

    Raises:
        ValueError: If a metric is called ``"loss"``.

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
    if "loss" in metrics:
        raise ValueError("metrics has an entry 'loss'; that name is the objective's own")

    def value(params, state, batch, key=None):
        x, *targets = batch
        outputs, state = model.apply(params, state, x, key)
        named = {name: metric(outputs, *targets) for name, metric in metrics.items()}
        return loss(outputs, *targets), (state, named)

    return Objective(init=lambda key, batch: model.init(key, batch[0]), loss=value)


def outputs(model: Model, state: PyTree) -> Partial:
    """Fix a model's state: ``f(params, batch) -> outputs`` in evaluation.

    Args:
        model: Maps ``x`` to outputs.
        state: Of a run.

    Returns:
        A function of ``params`` and a batch ``(x, *targets)``; a pytree whose leaf is the state.
    """
    return Partial(_outputs, model, state)


def _outputs(model: Model, state, params, batch):
    return model.apply(params, state, batch[0])[0]


def eval_loss(objective: Objective, state: PyTree) -> Partial:
    """Fix an objective's state: ``loss(params, batch)`` in evaluation, a plain scalar function.

    This is what curvature, influence and attacks take.

    Args:
        objective: What is minimized.
        state: Of a run; a leaf of the result, so that another state is no new compilation.

    Returns:
        A function of ``params`` and ``batch``: scalar, or ``Mean`` where the objective gives one.
    """
    return Partial(_eval_loss, objective, state)


def _eval_loss(objective: Objective, state, params, batch):
    return objective.loss(params, state, batch)[0]


def check_objective(loss_and_more) -> None:
    """Refuse what a loss must not return, while it is traced.

    Raises:
        TypeError: If it is not ``(loss, (state, metrics))``.
        ValueError: If the loss is neither scalar nor ``Mean``.
    """
    try:
        loss, (_state, metrics) = loss_and_more
        dict(metrics)
    except (TypeError, ValueError):
        raise TypeError(
            f"objective.loss returned shapes {jax.tree.map(jnp.shape, loss_and_more)}; expected "
            "(loss, (state, metrics)); train.objective(init, loss) lifts a plain loss"
        ) from None
    if "loss" in metrics:
        raise ValueError("metrics has an entry 'loss'; that name is the objective's own")
    for name, x in {"loss": loss, **metrics}.items():
        if not isinstance(x, _mean.Mean) and jnp.shape(x) != ():
            raise ValueError(
                f"{name!r} has shape {jnp.shape(x)}; expected a scalar mean over the examples or "
                "Mean(total, weight)"
            )
