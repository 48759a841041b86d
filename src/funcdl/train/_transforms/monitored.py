"""Programs that measure their run every few steps, inside the compiled loop."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from funcdl import _batching, _tree
from funcdl._check import at_least
from funcdl._typing import PyTree
from funcdl.curvature import hessian, noise_scale
from funcdl.operators import LinearOperator, leading_eigenpair, trace
from funcdl.train._objective import Objective, eval_loss
from funcdl.train._program import Program, Run
from funcdl.train._transforms.wrapped import refuse_lanes, wrapped


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Monitor:
    """A measurement along a run, as a pair of pure functions.

    Attributes:
        init: ``init(key, params) -> carry``, the value that one measurement passes to the next.
        measure: ``measure(carry, run, batch, key) -> (carry, metrics)``; ``metrics`` is a dict of
            scalars, and the ``opt_state`` of the run is empty.
    """

    init: Callable[..., PyTree]
    measure: Callable[..., tuple[PyTree, dict]]


class Monitored(NamedTuple):
    """The ``opt_state`` of a monitored program.

    Attributes:
        inner: The ``opt_state`` of the inner program.
        carries: The values that the monitors carry from one measurement to the next.
        metrics: The metrics of the last measurement.
    """

    inner: PyTree
    carries: tuple
    metrics: dict


def monitored(program: Program, *monitors: Monitor, every: int) -> Program:
    """Measure a run before the first step and then every few steps, without leaving the device.

    The metrics of each step include the results of the last measurement. The carries of the
    monitors are part of the run, so a resumed run measures the same values.

    Args:
        program: The program that trains.
        monitors: Monitors such as ``sharpness_monitor``, ``trace_monitor`` or ``noise_monitor``.
        every: The number of steps between two measurements.

    Returns:
        A program with additional metrics.

    Raises:
        TypeError: If ``every`` is not an integer, or a monitor is not a ``Monitor``.
        ValueError: If ``monitors`` is empty, ``every < 1``, two metrics have the same name, or the
            program is an ensemble (use the ensemble of the monitored program instead).

    >>> import jax.numpy as jnp, optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.zeros(2), lambda w, x: (w**2).sum())
    >>> sgd = train.program(line, optax.sgd(0.1))
    >>> watched = monitored(sgd, train.sharpness_monitor(line), every=10)
    >>> run = watched.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> watched.step(run, jnp.ones((1, 2)))[1]["sharpness"].round(4).item()
    2.0
    """
    if not monitors:
        raise ValueError("monitors is empty; expected at least one, such as sharpness_monitor")
    for i, monitor in enumerate(monitors):
        if not isinstance(monitor, Monitor):
            raise TypeError(
                f"monitors[{i}] is a {type(monitor).__name__}; expected a train.Monitor, such as "
                "sharpness_monitor(objective)"
            )
    at_least("every", every, 1, "step")

    # ``lax.cond`` keeps the measurement inside the compiled loop. Both of its branches must return
    # the same form, so the metrics of the last measurement are part of the state: a step that does
    # not measure reports them again. The measurement precedes the step and sees the run before it,
    # so that the values at step t belong to the loss that is logged at step t.
    def measure(carries, run, batch):
        metrics = {}
        for i, (monitor, carry) in enumerate(zip(monitors, carries)):
            key = jax.random.fold_in(jax.random.fold_in(run.key, run.step), i + 1)
            carry, new_metrics = monitor.measure(carry, run, batch, key)
            _check_distinct(metrics, new_metrics)
            carries = (*carries[:i], carry, *carries[i + 1 :])
            metrics |= new_metrics
        return carries, metrics

    def start(run: Run, batch) -> Monitored:
        refuse_lanes(run, "monitor its members: ensemble(monitored(program, ...), n)")
        keys = jax.random.split(run.key, len(monitors))
        carries = tuple(monitor.init(key, run.params) for monitor, key in zip(monitors, keys))
        forms = jax.eval_shape(measure, carries, run._replace(opt_state=()), batch)[1]
        # the zeros are never reported: step 0 measures
        return Monitored(inner=run.opt_state, carries=carries, metrics=_tree.zeros(forms))

    def advance(run: Run, own: Monitored, batch) -> tuple[Run, Monitored, dict]:
        is_due = run.step % every == 0
        keep = lambda carries, run, batch: (carries, own.metrics)
        visible = run._replace(opt_state=())  # each operand of a cond may cost a copy
        carries, metrics = jax.lax.cond(is_due, measure, keep, own.carries, visible, batch)
        run, logged = program.step(run, batch)
        _check_distinct(logged, metrics)
        return run, own._replace(carries=carries, metrics=metrics), logged | metrics

    return wrapped(program, start, advance)


def sharpness_monitor(objective: Objective, *, share: float = 0.25, steps: int = 3) -> Monitor:
    r"""Track the largest eigenvalue of the Hessian of the batch's loss.

    Each measurement refines the eigenvector of the previous one with a few products, so the
    eigenvector converges while the run proceeds. ``sharpness_residual`` bounds the error: an
    eigenvalue of the Hessian on these examples lies within this distance. The variation between
    batches is visible in the series itself.

    Args:
        objective: The objective; its evaluation loss is measured.
        share: The fraction of the batch to use, at least one example.
        steps: The number of products with the Hessian per measurement.

    Returns:
        A monitor with the metrics ``sharpness`` and ``sharpness_residual``.

    Raises:
        ValueError: If ``share`` is not in (0, 1] or ``steps < 1``.
    """
    _check_share(share)
    at_least("steps", steps, 1, "product")

    def init(key, params):
        return _tree.random(key, params, jax.random.normal)

    def measure(vector, run: Run, batch, _key):
        A = _hessian(objective, run, batch, share)
        pair = leading_eigenpair(A, vector, steps=steps)
        metrics = {"sharpness": pair.values[0], "sharpness_residual": pair.residuals[0]}
        # a batch of weight 0, or one that is not finite, must not end the series
        is_finite = _tree.all_finite(pair.vectors)
        new = jax.tree.map(lambda x, old: jnp.where(is_finite, x[0], old), pair.vectors, vector)
        return new, metrics

    return Monitor(init, measure)


def trace_monitor(objective: Objective, *, share: float = 0.25, probes: int = 4) -> Monitor:
    """Estimate the trace of the Hessian of the batch's loss, with its standard error.

    Args:
        objective: The objective; its evaluation loss is measured.
        share: The fraction of the batch to use, at least one example.
        probes: The number of products with the Hessian per measurement, at least 2.

    Returns:
        A monitor with the metrics ``trace`` and ``trace_stderr``.

    Raises:
        ValueError: If ``share`` is not in (0, 1] or ``probes < 2``.
    """
    _check_share(share)
    at_least("probes", probes, 2, "(for a standard error)")

    def measure(carry, run: Run, batch, key):
        estimate = trace(_hessian(objective, run, batch, share), key=key, probes=probes)
        return carry, {"trace": estimate.value, "trace_stderr": estimate.stderr}

    return Monitor(lambda key, params: (), measure)


def noise_monitor(objective: Objective, *, share: float = 0.25) -> Monitor:
    """Estimate the batch size at which the gradient has as much noise as signal.

    Args:
        objective: The objective, a mean over independent examples (no batch norm).
        share: The fraction of the batch to use, at least 3 examples.

    Returns:
        A monitor with the metrics ``noise_scale`` (in examples) and ``noise_scale_stderr``.

    Raises:
        ValueError: If ``share`` is not in (0, 1].
    """
    _check_share(share)

    def measure(carry, run: Run, batch, _key):
        loss = eval_loss(objective, run.state)
        estimate = noise_scale(loss, run.params, _part(batch, share, 3))
        return carry, {"noise_scale": estimate.value, "noise_scale_stderr": estimate.stderr}

    return Monitor(lambda key, params: (), measure)


def _hessian(objective: Objective, run: Run, batch: PyTree, share: float) -> LinearOperator:
    A = hessian(eval_loss(objective, run.state), run.params, _part(batch, share, 1))
    return cast(LinearOperator, A)  # a stream operator only results from a stream


def _part(batch: PyTree, share: float, least: int) -> PyTree:
    """Take the first examples; no draw is needed, since batches are drawn already."""
    count = max(round(share * _batching.examples(batch)), least)
    return jax.tree.map(lambda x: x[:count] if x.ndim else x, batch)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected 0 < share <= 1, a fraction of the batch")


def _check_distinct(metrics: dict, more: dict) -> None:
    shared = sorted(metrics.keys() & more.keys())
    if shared:
        raise ValueError(f"two metrics have the name {shared[0]!r}; rename one of them")
