"""The pair ``Objective(init, loss)``: a training objective as two pure functions."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _mean
from funcdl._check import function, record
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
    check_model("model", model, "train.supervised(model, loss)")
    function("loss", loss, "loss(outputs, *targets)")
    if metrics is not None and not isinstance(metrics, dict):
        raise TypeError(f"metrics is a {type(metrics).__name__}; expected a dict of functions")
    metrics = dict(metrics or {})
    _check_names(metrics)
    for name, f in metrics.items():
        function(f"metric {name!r}", f, "a function (outputs, *targets), or a train.Statistic")

    def value(params, state, batch, key=None):
        x, *targets = _parts(batch)
        for name, f in {"loss": loss, **metrics}.items():
            _check_arguments(name, f, len(targets))
        outputs, state = model.apply(params, state, x, key)
        named = {
            name: Measured(f, (outputs, *targets))
            if isinstance(f, Statistic)
            else f(outputs, *targets)
            for name, f in metrics.items()
            if key is None or not isinstance(f, Statistic)  # training reports means only
        }
        return loss(outputs, *targets), (state, named)

    return Objective(init=lambda key, batch: model.init(key, _parts(batch)[0]), loss=value)


def check_model(name: str, model: Any, caller: str) -> None:
    """Check that an argument is a ``Model``.

    Raises:
        TypeError: If it is not; the message names the adapter for a module.
    """
    if isinstance(model, Model):
        return
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if packages & {"flax", "equinox", "haiku"}:
        framework = "from_linen" if hasattr(model, "lazy_init") else "split"
        raise TypeError(
            f"{name} is the module {type(model).__name__}; expected an nn.Model, from "
            f"nn.{framework}({type(model).__name__}(...))"
        )
    raise TypeError(
        f"{name} is a {type(model).__name__}; expected an nn.Model, such as nn.from_linen(Net()), "
        f"as the first argument of {caller}"
    )


def _parts(batch: Any) -> tuple:
    """Return ``(x, *targets)``."""
    if isinstance(batch, (tuple, list)):
        return tuple(batch)
    kind = f"a dict of {list(batch)}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
    raise TypeError(
        f"the batch is {kind}; a supervised objective takes a tuple (x, *targets), such as "
        "(images, labels); convert other batches by the transform of Batches, or write the loss "
        "with train.Objective"
    )


def _check_arguments(name: str, f: Callable, count: int) -> None:
    """Check that a loss or a metric can be called with the targets of a batch."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # a function without Python code
        return
    try:
        signature.bind(*range(1 + count))
    except TypeError:
        own = f"{getattr(f, '__name__', 'f')}({', '.join(signature.parameters)})"
        raise TypeError(
            f"{name!r} is {own}, but the batch has {count} targets in addition to its input; "
            f"expected a function of the outputs and {count} targets; leave out a target by a "
            "lambda, such as lambda outputs, labels, weights: f(outputs, labels)"
        ) from None


def outputs(model: Model, state: PyTree) -> Partial:
    """Return the evaluation of a model, ``f(params, batch) -> outputs``, at a fixed state.

    Args:
        model: The model, which maps ``x`` to outputs.
        state: The state of a run, ``run.state``.

    Returns:
        A function of ``params`` and a batch ``(x, *targets)``. It is a pytree whose leaves are the
        state.
    """
    record("model", model, Model, "such as nn.from_linen(module)")
    return Partial(_outputs, model, state)


def _outputs(model: Model, state: PyTree, params: PyTree, batch: PyTree) -> PyTree:
    if not isinstance(batch, (tuple, list)) or not batch:
        raise TypeError(f"batch is a {type(batch).__name__}; expected a tuple (x, *targets)")
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
    record("objective", objective, Objective, "such as train.objective(init, loss)")
    return Partial(_eval_loss, objective, state)


def _eval_loss(
    objective: Objective, state: PyTree, params: PyTree, batch: PyTree
) -> Scalar | _mean.Mean:
    return objective.loss(params, state, batch)[0]


def check_objective(result: PyTree) -> None:
    """Check the value that ``objective.loss`` returned, while it is traced.

    Raises:
        TypeError: If it is not ``(loss, (state, metrics))``, or metrics are nested.
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
        if isinstance(x, (dict, list)):
            raise TypeError(
                f"metric {name!r} is a {type(x).__name__}; expected a number; give each number a "
                "name of its own, such as 'a/b'"
            )
        if not isinstance(x, (_mean.Mean, Measured)) and jnp.shape(x) != ():
            raise ValueError(
                f"{name!r} has shape {jnp.shape(x)}; expected a scalar mean over the examples or "
                "Mean(total, weight)"
            )


def _check_names(metrics: dict) -> None:
    if "loss" in metrics:
        raise ValueError("metrics has an entry 'loss', the reserved name of the loss; rename it")
