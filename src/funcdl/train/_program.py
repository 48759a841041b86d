"""The pair ``Program(init, step)`` and the run that it advances."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcdl import _mean, _tree
from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree
from funcdl.nn import Variables
from funcdl.train._gradients import gradient
from funcdl.train._objective import Objective


class Run(NamedTuple):
    """All of a training run, one pytree: it can be vmapped, differentiated, saved, averaged.

    Attributes:
        params: Float arrays, what the optimizer changes.
        state: What the model carries besides.
        opt_state: Of the optimizer.
        hyper: What is swept or differentiated, a dict; ``{}`` where nothing is.
        step: How many steps were taken, a scalar.
        key: Names the run; the key of a step is ``fold_in(key, step)``.
    """

    params: PyTree
    state: PyTree
    opt_state: PyTree
    hyper: dict
    step: Array
    key: Key[Array, ""]

    @property
    def variables(self) -> Variables:
        """``(params, state)``, what a model or an objective takes."""
        return Variables(self.params, self.state)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Program:
    """A way to train, as a pair of pure functions.

    Attributes:
        init: ``init(key, batch, hyper={}) -> Run``; of the batch only shapes are read.
        step: ``step(run, batch) -> (run, metrics)``, the body of a ``lax.scan`` as it stands;
            ``metrics`` is a dict of scalars, the loss among them.
    """

    init: Callable
    step: Callable


def program(
    objective: Objective | Callable,
    optimizer: optax.GradientTransformation | Callable,
    gradient: Callable = gradient,
) -> Program:
    """Put an objective and an optimizer together.

    Args:
        objective: What is minimized, or ``objective(hyper)`` that returns it.
        optimizer: An optax transformation, or ``optimizer(hyper)`` that returns one. It gets
            ``value, grad, value_fn, batch, step`` as extra arguments.
        gradient: ``gradient(objective)`` as ``train.gradient`` gives it; ``accumulated(k)`` and
            ``clipped(bound, noise)`` are others.

    Returns:
        The pair.

    Raises:
        TypeError: If ``optimizer`` is neither, or ``objective`` no objective.

    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(line, optax.sgd(0.25))
    >>> run = sgd.init(jax.random.key(0), jnp.ones(4))
    >>> run, metrics = sgd.step(run, jnp.ones(4))
    >>> run.params.item(), metrics["loss"].item(), run.step.item()
    (0.5, 1.0, 1)
    """
    goal = _of_hyper(_is_objective, objective, "objective", _OBJECTIVE)
    transformation = _of_hyper(_is_transformation, optimizer, "optimizer", _TRANSFORMATION)

    def init(key, batch, hyper: dict | None = None) -> Run:
        check_key(key)
        hyper = jax.tree.map(jnp.asarray, dict(hyper or {}))
        key_init, key_run = jax.random.split(key)
        params, state = goal(hyper).init(key_init, batch)
        _tree.check_floating(params, "params")
        opt_state = optax.with_extra_args_support(transformation(hyper)).init(params)
        return _strong(Run(params, state, opt_state, hyper, jnp.int32(0), key_run))

    def step(run: Run, batch) -> tuple[Run, dict]:
        params, state, opt_state, hyper, count, key = run
        key = jax.random.fold_in(key, count)
        minimized, update = goal(hyper), optax.with_extra_args_support(transformation(hyper)).update
        grads, loss, (state, metrics) = gradient(minimized)(params, state, batch, key)
        value = _mean.value(loss)

        def value_fn(params, batch=batch, step=count):
            del step  # line searches hand on all extra arguments, and refuse what is not taken
            return _mean.value(minimized.loss(params, run.state, batch, key)[0])

        extra = {"value": value, "grad": grads, "value_fn": value_fn, "batch": batch, "step": count}
        updates, opt_state = update(grads, opt_state, params, **extra)
        params = optax.apply_updates(params, updates)
        metrics = {"loss": value, **{name: _mean.value(m) for name, m in metrics.items()}}
        return Run(params, state, opt_state, hyper, count + 1, run.key), metrics

    return Program(init, step)


def _strong(run: Run) -> Run:
    """Drop weak types: a step would drop them too, and its second call would compile again."""

    def strong(x):
        return x.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else x

    return jax.tree.map(strong, run)


_OBJECTIVE = (
    "a train.Objective, such as train.supervised(model, loss), or train.objective(init, loss) of a "
    "plain loss"
)
_TRANSFORMATION = "an optax.GradientTransformation"


def _is_objective(x) -> bool:
    return hasattr(x, "init") and hasattr(x, "loss")


def _is_transformation(x) -> bool:
    return isinstance(x, optax.GradientTransformation)


def _of_hyper(is_one: Callable, given, name: str, expected: str) -> Callable:
    """Return a function of ``hyper``: the constant one where what is given is no function."""
    if is_one(given):
        return lambda hyper: given
    if not callable(given):
        raise TypeError(
            f"{name} is a {type(given).__name__}; expected {expected}, or a function of hyper that "
            "returns one"
        )

    def made(hyper):
        try:
            found = given(hyper)
        except KeyError as error:
            raise ValueError(
                f"{name}(hyper) reads {error}, hyper holds {sorted(hyper)}: give it to "
                "program.init(key, batch, hyper), or sweep it"
            ) from error
        if not is_one(found):
            raise TypeError(f"{name}(hyper) returned a {type(found).__name__}; expected {expected}")
        return found

    return made
