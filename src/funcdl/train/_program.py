"""The pair ``Program(init, step)`` and the run that it advances."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcdl import _mean, _tree
from funcdl._check import check_key, integer
from funcdl._typing import Array, Key, PyTree
from funcdl.nn import Variables
from funcdl.train._objective import Objective, check_objective


class Run(NamedTuple):
    """All of a training run, one pytree: it can be vmapped, differentiated, saved, averaged.

    Attributes:
        params: Float arrays, what the optimiser changes.
        state: What the model carries besides.
        opt_state: Of the optimiser.
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


def gradient(objective: Objective) -> Callable:
    """Differentiate an objective in its parameters.

    Args:
        objective: What is minimised.

    Returns:
        ``(params, state, batch, key) -> (grads, loss, (state, metrics))``: of the mean, also where
        the objective gives ``Mean``; loss and metrics come as the objective gives them.
    """

    def mean_loss(params, state, batch, key):
        result = objective.loss(params, state, batch, key)
        check_objective(result)
        return _mean.value(result[0]), result

    def gradients(params, state, batch, key):
        grads, (loss, rest) = jax.grad(mean_loss, has_aux=True)(params, state, batch, key)
        return grads, loss, rest

    return gradients


def program(
    objective: Objective,
    optimizer: optax.GradientTransformation | Callable,
    gradient: Callable = gradient,
) -> Program:
    """Put an objective and an optimiser together.

    Args:
        objective: What is minimised.
        optimizer: An optax transformation, or ``optimizer(hyper)`` that returns one. It gets
            ``value, grad, value_fn, batch, step`` as extra arguments.
        gradient: ``gradient(objective)`` as ``train.gradient`` gives it.

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
    if not hasattr(objective, "init") or not hasattr(objective, "loss"):
        raise TypeError(
            f"objective is a {type(objective).__name__}; expected a train.Objective: "
            "train.supervised(model, loss), or train.objective(init, loss) of a plain loss"
        )
    transformation = _transformation(optimizer)
    gradients = gradient(objective)

    def init(key, batch, hyper: dict | None = None) -> Run:
        check_key(key)
        hyper = jax.tree.map(jnp.asarray, dict(hyper or {}))
        key_init, key_run = jax.random.split(key)
        params, state = objective.init(key_init, batch)
        _tree.check_floating(params, "params")
        opt_state = transformation(hyper).init(params)
        return _strong(Run(params, state, opt_state, hyper, jnp.int32(0), key_run))

    def step(run: Run, batch) -> tuple[Run, dict]:
        params, state, opt_state, hyper, count, key = run
        key = jax.random.fold_in(key, count)
        grads, loss, (state, metrics) = gradients(params, state, batch, key)
        value = _mean.value(loss)

        def value_fn(params, batch=batch, step=count):
            del step  # line searches hand on all extra arguments, and refuse what is not taken
            return _mean.value(objective.loss(params, run.state, batch, key)[0])

        extra = {"value": value, "grad": grads, "value_fn": value_fn, "batch": batch, "step": count}
        updates, opt_state = transformation(hyper).update(grads, opt_state, params, **extra)
        params = optax.apply_updates(params, updates)
        metrics = {"loss": value, **{name: _mean.value(m) for name, m in metrics.items()}}
        return Run(params, state, opt_state, hyper, count + 1, run.key), metrics

    return Program(init, step)


def _strong(run: Run) -> Run:
    """Drop weak types: a step would drop them too, and its second call would compile again."""

    def strong(x):
        return x.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else x

    return jax.tree.map(strong, run)


def _transformation(optimizer) -> Callable:
    """Return ``transformation(hyper)``, an optax transformation that takes extra arguments."""
    if isinstance(optimizer, optax.GradientTransformation):
        fixed = optax.with_extra_args_support(optimizer)
        return lambda hyper: fixed
    if not callable(optimizer):
        raise TypeError(
            f"optimizer is {optimizer!r}; expected an optax.GradientTransformation, or a function "
            "of hyper that returns one"
        )

    def made(hyper):
        transformation = optimizer(hyper)
        if not isinstance(transformation, optax.GradientTransformation):
            raise TypeError(
                f"optimizer(hyper) returned {transformation!r}; expected an "
                "optax.GradientTransformation"
            )
        return optax.with_extra_args_support(transformation)

    return made


def ensemble(program: Program, n: int) -> Program:
    """Train n members at once on the same batches, each from a key of its own.

    Args:
        program: Of one member.
        n: How many.

    Returns:
        A program whose run has a leading axis n on every leaf but ``step``, which members share;
        so have its metrics. ``member(run, i)`` takes one out.

    Raises:
        ValueError: If ``n < 1``.
    """
    if n < 1:
        raise ValueError(f"n is {n}; expected at least one member")
    axes = Run(0, 0, 0, 0, None, 0)

    def init(key, batch, hyper: dict | None = None) -> Run:
        one = lambda key: program.init(key, batch, hyper)
        return jax.vmap(one, out_axes=axes)(jax.random.split(key, n))

    return Program(init, jax.vmap(program.step, in_axes=(axes, None), out_axes=(axes, 0)))


def member(run: Run, i: int) -> Run:
    """Take one member out of an ensemble's run; it continues alone.

    Args:
        run: Of an ensemble.
        i: Which, from 0.

    Returns:
        The run of that member.

    Raises:
        TypeError: If i is no integer.
        ValueError: If the run has no such member (indexing would take the nearest one).
    """
    n, i = run.key.shape[0] if run.key.ndim else 0, integer("i", i)
    if not 0 <= i < n:
        raise ValueError(f"i is {i}; expected 0 <= i < n of a run that has {n} members")
    return jax.tree.map(lambda leaf: leaf[i], run._replace(step=None))._replace(step=run.step)
