"""The pair ``Program(init, step)`` and the run that it advances."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcdl import _mean, _tree
from funcdl._check import check_key, function, narrowed
from funcdl._typing import Array, Key, PyTree
from funcdl.nn import Variables
from funcdl.train._gradients import GradientTransform, gradient
from funcdl.train._objective import Objective


class Run(NamedTuple):
    """A training run as one pytree, which can be vmapped, differentiated, saved and averaged.

    Attributes:
        params: The float arrays that the optimizer updates.
        state: Everything else that the model carries.
        opt_state: The state of the optimizer.
        hyper: A dict of the hyper-parameters that are swept or differentiated; ``{}`` if there are
            none.
        step: The number of steps taken so far, a scalar.
        key: The key of the run; a step uses ``fold_in(key, step)``.
    """

    params: PyTree
    state: PyTree
    opt_state: PyTree
    hyper: dict
    step: Array
    key: Key[Array, ""]

    @property
    def variables(self) -> Variables:
        """``(params, state)``, as models and objectives take them."""
        return Variables(self.params, self.state)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Program:
    """A training procedure as a pair of pure functions.

    Attributes:
        init: ``init(key, batch, hyper={}) -> Run``; only the shapes of the batch are read.
        step: ``step(run, batch) -> (run, metrics)``, which can be the body of a ``lax.scan``;
            ``metrics`` is a dict of scalars that includes the loss.
    """

    init: Callable[..., Run]
    step: Callable[[Run, PyTree], tuple[Run, dict]]


def program(
    objective: Objective | Callable[[dict], Objective],
    optimizer: optax.GradientTransformation | Callable[[dict], optax.GradientTransformation],
    gradient: GradientTransform = gradient,
) -> Program:
    """Combine an objective and an optimizer into a program.

    Args:
        objective: The objective, or a function ``objective(hyper)`` that returns one.
        optimizer: An optax transformation, or a function ``optimizer(hyper)`` that returns one. Its
            update receives ``value, grad, value_fn, batch, step`` as extra arguments.
        gradient: A function ``gradient(objective)`` of the form of ``train.gradient``, such as
            ``accumulated(k)`` or ``clipped_per_example(bound, noise)``.

    Returns:
        The pair.

    Raises:
        TypeError: If ``objective`` or ``optimizer`` is neither of the two forms above.

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
        values = _hyper(hyper)
        key_init, key_run = jax.random.split(key)
        params, state = goal(values).init(key_init, batch)
        _tree.check_floating(params, "params")
        opt_state = optax.with_extra_args_support(transformation(values)).init(params)
        return _tree.strong(Run(params, state, opt_state, values, step=jnp.int32(0), key=key_run))

    def step(run: Run, batch) -> tuple[Run, dict]:
        key = jax.random.fold_in(run.key, run.step)
        minimized = goal(run.hyper)
        grads, loss, (state, metrics) = gradient(minimized)(run.params, run.state, batch, key)
        value = _mean.value(loss)

        def value_fn(params, batch=batch, step=run.step):
            del step  # line searches pass on all extra arguments and reject unknown names
            return _mean.value(minimized.loss(params, run.state, batch, key)[0])

        update = optax.with_extra_args_support(transformation(run.hyper)).update
        extra = {"value": value, "grad": grads, "value_fn": value_fn}
        extra |= {"batch": batch, "step": run.step}
        updates, opt_state = update(grads, run.opt_state, run.params, **_taken(update, extra))
        params = optax.apply_updates(run.params, updates)
        metrics = {"loss": value, **{name: _mean.value(m) for name, m in metrics.items()}}
        new = run._replace(params=params, state=state, opt_state=opt_state, step=run.step + 1)
        return new, metrics

    return Program(init, step)


def _taken(update: Callable, extra: dict) -> dict:
    """Return the extra arguments that an update takes; optax.contrib.sam takes none of them."""
    parameters = inspect.signature(update).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return extra
    return {name: x for name, x in extra.items() if name in parameters}


def _hyper(hyper: dict | None) -> dict:
    if hyper is not None and not isinstance(hyper, dict):
        raise TypeError(
            f"hyper is a {type(hyper).__name__}; expected a dict of numbers, such as "
            "{'learning_rate': 0.1}"
        )
    for name, value in (hyper or {}).items():
        problem = narrowed(np.asarray(value)) if isinstance(value, (int, float, np.ndarray)) else ""
        if problem:
            raise ValueError(f"hyper {name!r} {problem}")
    return jax.tree.map(jnp.asarray, dict(hyper or {}))


_OBJECTIVE = (
    "a train.Objective, such as train.supervised(model, loss), or train.objective(init, loss) for "
    "a plain loss"
)
_TRANSFORMATION = "an optax.GradientTransformation"


def _is_objective(x: Any) -> bool:
    return hasattr(x, "init") and hasattr(x, "loss")


def _is_transformation(x: Any) -> bool:
    return isinstance(x, optax.GradientTransformation)


def _of_hyper(
    is_valid: Callable[[Any], bool], argument: Any, name: str, expected: str
) -> Callable[[dict], Any]:
    """Return ``argument`` as a checked function of ``hyper``, constant if it is not a function."""
    if is_valid(argument):
        return lambda hyper: argument
    function(name, argument, f"{expected}, or a function of hyper that returns one")
    package = str(getattr(argument, "__module__", "")).partition(".")[0]
    if package == "optax":
        raise TypeError(
            f"{name} is the function optax.{argument.__name__}; expected {expected}: call it, such "
            f"as optax.{argument.__name__}(1e-3)"
        )

    def checked(hyper):
        try:
            value = argument(hyper)
        except KeyError as error:
            raise ValueError(
                f"{name}(hyper) reads {error}, but hyper holds {sorted(hyper)}; pass the value to "
                "program.init(key, batch, hyper), or sweep it"
            ) from error
        if not is_valid(value):
            raise TypeError(f"{name}(hyper) returned a {type(value).__name__}; expected {expected}")
        return value

    return checked


def check_program(program: Any, order: str = "") -> None:
    """Raise an error if an argument is not the pair of a program.

    Raises:
        TypeError: If it is not; the message ends with ``order``, that of the arguments.
    """
    if not (callable(getattr(program, "step", None)) and hasattr(program, "init")):
        raise TypeError(f"program is a {type(program).__name__}; expected a train.Program{order}")


def check_run(run: Any, order: str = "") -> None:
    """Raise an error if an argument is not a run.

    Raises:
        TypeError: If it is not; the message ends with ``order``, that of the arguments.
    """
    if not hasattr(run, "opt_state") or not hasattr(run, "key"):
        raise TypeError(
            f"run is a {type(run).__name__}; expected a train.Run, from program.init{order}"
        )
