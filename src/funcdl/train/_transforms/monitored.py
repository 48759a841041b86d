"""Programs that measure themselves every so many steps, inside the compiled loop."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _batching, _tree
from funcdl._check import at_least
from funcdl._typing import PyTree
from funcdl.curvature import hessian, noise_scale
from funcdl.operators import leading_eigenpair, trace
from funcdl.train._objective import Objective, eval_loss
from funcdl.train._program import Program, Run


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Monitor:
    """A way to measure a run, as a pair of pure functions.

    Attributes:
        init: ``init(key, params) -> carry``, what one measurement hands to the next.
        measure: ``measure(carry, run, batch, key) -> (carry, metrics)``, a dict of scalars; the
            run has no ``opt_state``.
    """

    init: Callable
    measure: Callable


class Monitored(NamedTuple):
    """The ``opt_state`` of a monitored program.

    Attributes:
        inner: Of the program itself.
        carries: What the monitors carry from one measurement to the next.
        metrics: What was measured last.
    """

    inner: PyTree
    carries: tuple
    metrics: dict


def monitored(program: Program, *monitors: Monitor, every: int) -> Program:
    """Measure a run before step 0 and then every so many steps, without leaving the device.

    The metrics of each step hold what was measured last. What monitors carry is part of the run,
    so a resumed run measures the same.

    Args:
        program: What is trained.
        monitors: ``sharpness_monitor``, ``trace_monitor``, ``noise_monitor``, or others of that
            form.
        every: Steps between two measurements.

    Returns:
        A program with more metrics.

    Raises:
        TypeError: If ``every`` is no integer, or a monitor is not a ``Monitor``.
        ValueError: If there are no monitors, ``every < 1``, two metrics have one name, or the
            program is an ensemble (take the ensemble of what is monitored).

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

    def measure(carries, run, batch):
        metrics = {}
        for i, (monitor, carry) in enumerate(zip(monitors, carries)):
            key = jax.random.fold_in(jax.random.fold_in(run.key, run.step), i + 1)
            carry, found = monitor.measure(carry, run, batch, key)
            _refuse_twice(metrics, found)
            carries = (*carries[:i], carry, *carries[i + 1 :])
            metrics |= found
        return carries, metrics

    def init(key, batch, hyper: dict | None = None) -> Run:
        run = program.init(key, batch, hyper)
        if run.key.ndim:
            raise ValueError(
                "program is an ensemble, whose run has lanes; monitor its members: "
                "ensemble(monitored(program, ...), n)"
            )
        keys = jax.random.split(run.key, len(monitors))
        carries = tuple(monitor.init(key, run.params) for monitor, key in zip(monitors, keys))
        forms = jax.eval_shape(measure, carries, run._replace(opt_state=()), batch)[1]
        metrics = _tree.zeros(forms)  # never seen: step 0 measures
        return run._replace(opt_state=Monitored(run.opt_state, carries, metrics))

    def step(run: Run, batch) -> tuple[Run, dict]:
        inner, carries, metrics = run.opt_state
        run = run._replace(opt_state=inner)
        due = run.step % every == 0
        keep = lambda carries, run, batch: (carries, metrics)
        seen = run._replace(opt_state=())  # each operand of a cond may cost a copy
        carries, metrics = jax.lax.cond(due, measure, keep, carries, seen, batch)
        run, logged = program.step(run, batch)
        _refuse_twice(logged, metrics)
        return run._replace(opt_state=Monitored(run.opt_state, carries, metrics)), logged | metrics

    return Program(init, step)


def sharpness_monitor(objective: Objective, *, share: float = 0.25, steps: int = 3) -> Monitor:
    r"""Follow the largest eigenvalue of the Hessian of the batch's loss.

    Each measurement improves the eigenvector of the last one by some products, so that it
    converges while the run goes on; ``sharpness_residual`` tells how far it has: an eigenvalue of
    the Hessian on these examples lies that close. How it varies from batch to batch is in the
    series itself.

    Args:
        objective: What is minimized; its evaluation is measured.
        share: The part of the batch that is used, at least one example.
        steps: Products with the Hessian for each measurement.

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
        # a batch without weight, or one that is not finite, must not end the series
        sound = _tree.all_finite(pair.vectors)
        found = jax.tree.map(lambda x, old: jnp.where(sound, x[0], old), pair.vectors, vector)
        return found, metrics

    return Monitor(init, measure)


def trace_monitor(objective: Objective, *, share: float = 0.25, probes: int = 4) -> Monitor:
    """Estimate the trace of the Hessian of the batch's loss, with its standard error.

    Args:
        objective: What is minimized; its evaluation is measured.
        share: The part of the batch that is used, at least one example.
        probes: Products with the Hessian for each measurement, at least 2.

    Returns:
        A monitor with the metrics ``trace`` and ``trace_stderr``.

    Raises:
        ValueError: If ``share`` is not in (0, 1] or ``probes < 2``.
    """
    _check_share(share)
    at_least("probes", probes, 2, "(for a standard error)")

    def measure(nothing, run: Run, batch, key):
        found = trace(_hessian(objective, run, batch, share), key=key, probes=probes)
        return nothing, {"trace": found.value, "trace_stderr": found.stderr}

    return Monitor(lambda key, params: (), measure)


def noise_monitor(objective: Objective, *, share: float = 0.25) -> Monitor:
    """Estimate how large a batch has as much noise as signal in its gradient.

    Args:
        objective: What is minimized, a mean over examples that do not see each other.
        share: The part of the batch that is used; at least 3 examples.

    Returns:
        A monitor with the metrics ``noise_scale`` (in examples) and ``noise_scale_stderr``.

    Raises:
        ValueError: If ``share`` is not in (0, 1].
    """
    _check_share(share)

    def measure(nothing, run: Run, batch, _key):
        loss = eval_loss(objective, run.state)
        found = noise_scale(loss, run.params, _part(batch, share, 3))
        return nothing, {"noise_scale": found.value, "noise_scale_stderr": found.stderr}

    return Monitor(lambda key, params: (), measure)


def _hessian(objective: Objective, run: Run, batch: PyTree, share: float):
    return hessian(eval_loss(objective, run.state), run.params, _part(batch, share, 1))


def _part(batch: PyTree, share: float, least: int) -> PyTree:
    """Take the first examples: the order of the data is drawn already."""
    count = max(round(share * _batching.examples(batch)), least)
    return jax.tree.map(lambda x: x[:count] if x.ndim else x, batch)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected 0 < share <= 1, a part of the batch")


def _refuse_twice(metrics: dict, more: dict) -> None:
    twice = sorted(metrics.keys() & more.keys())
    if twice:
        raise ValueError(f"two metrics have the name {twice[0]!r}; rename one of them")
