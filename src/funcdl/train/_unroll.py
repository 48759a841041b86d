"""Training as a differentiable function, and the learning-rate range test built on it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import at_least, integer
from funcdl._typing import Array, Float, PyTree
from funcdl.train._program import Program, Run, check_program, check_run


def unroll(
    program: Program, run: Run, data: PyTree, *, steps: int, segments: int = 1
) -> tuple[Run, dict]:
    """Take a number of steps under ``lax.scan``, differentiable in every leaf of the run.

    The gradient of this function in the learning rate, the initialization or the data is a
    hypergradient. Reverse mode stores the runs between segments and the intermediate values of one
    segment, so about the square root of ``steps`` segments need the least memory. Forward mode,
    which suits few hyper-parameters, stores nothing. Optimizers that take roots of moments, such as
    Adam, need ``eps_root > 0``: for a parameter whose gradient is 0, the derivative would be 0
    times infinity, NaN.

    Args:
        program: The program that trains.
        run: The run to start from.
        data: Any object with a method ``at(step) -> batch``.
        steps: The number of steps to take.
        segments: The number of consecutive segments of equal length. A gradient recomputes the
            steps of each segment.

    Returns:
        The run, and the metrics ``{name: (steps, ...)}``.

    Raises:
        TypeError: If ``steps`` or ``segments`` is not an integer, or the data has no ``at``.
        ValueError: If ``steps < 0``, or the segments do not divide the steps.

    Source: Maclaurin et al., "Gradient-based hyperparameter optimization through reversible
    learning", ICML (2015).

    >>> import optax
    >>> from funcdl import data, train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(line, lambda hyper: optax.sgd(hyper["rate"]))
    >>> batches = data.Batches(jnp.zeros(4), 2)
    >>> def reached(rate):
    ...     run = sgd.init(jax.random.key(0), batches.form, {"rate": rate})
    ...     return unroll(sgd, run, batches, steps=2)[0].params  # (1 - 2 rate)²
    >>> jax.grad(reached)(0.25).item()
    -2.0
    """
    steps, segments = integer("steps", steps), integer("segments", segments)
    if steps < 0 or segments < 1 or steps % segments:
        raise ValueError(
            f"steps is {steps} and segments {segments}; expected steps >= 0, divisible by segments"
        )
    check_program(program)
    check_run(run)
    check_at(data)

    def step(run, _):
        return program.step(run, data.at(run.step))

    if segments == 1:
        return jax.lax.scan(step, run, length=steps)

    @jax.checkpoint
    def segment(run, _):
        return jax.lax.scan(step, run, length=steps // segments)

    run, metrics = jax.lax.scan(segment, run, length=segments)
    return run, jax.tree.map(lambda x: x.reshape(steps, *x.shape[2:]), metrics)


def check_at(data: Any) -> None:
    """Check that data is a function of the step.

    Raises:
        TypeError: If it has no ``at``.
    """
    if not callable(getattr(data, "at", None)):
        raise TypeError(
            f"data is a {type(data).__name__}; expected an object with at(step), such as "
            "data.Batches"
        )


class RangeTest(NamedTuple):
    """The loss while the learning rate grows.

    Attributes:
        rates: ``(s,)``, the learning rate of each step.
        losses: ``(s,)``, the loss of each step's batch, before the step.
        smoothed: ``(s,)``, the bias-corrected exponential mean of the losses.
        steepest: The rate at which the smoothed loss falls fastest in the logarithm of the rate, a
            sound first choice.
        diverges: The first rate at which the smoothed loss is 4 times its minimum or not finite;
            the largest rate if the loss never diverges.
    """

    rates: Float[Array, " s"]
    losses: Float[Array, " s"]
    smoothed: Float[Array, " s"]
    steepest: Float[Array, ""]
    diverges: Float[Array, ""]


def learning_rate_range_test(
    program: Program, run: Run, data: PyTree, *, low: float, high: float, steps: int
) -> RangeTest:
    r"""Train while the learning rate grows exponentially, :math:`r_t = a (b / a)^{t / (s - 1)}`.

    The test is traceable, so ``jax.vmap`` over runs shows how much it varies. The given run is not
    changed.

    Args:
        program: A program whose optimizer is a function of ``hyper["learning_rate"]``.
        run: The run to start from.
        data: Any object with a method ``at(step) -> batch``.
        low: a, the first rate.
        high: b, the last rate.
        steps: The number of steps.

    Returns:
        The curve, and the two rates that are read off it.

    Raises:
        TypeError: If ``steps`` is not an integer, or the data has no ``at``.
        ValueError: If the run has no such hyper-parameter or has lanes, unless ``0 < low < high``,
            or if ``steps < 3``.

    Source: Smith, "Cyclical learning rates for training neural networks", WACV (2017).

    >>> import optax
    >>> from funcdl import data, train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(line, lambda hyper: optax.sgd(hyper["learning_rate"]))
    >>> batches = data.Batches(jnp.zeros(4), 2)
    >>> run = sgd.init(jax.random.key(0), batches.form, {"learning_rate": 0.0})
    >>> result = learning_rate_range_test(sgd, run, batches, low=1e-3, high=100.0, steps=60)
    >>> 0.05 < result.steepest < 1.0 < result.diverges  # |1 - 2 rate| > 1 from 1 on
    Array(True, dtype=bool)
    """
    check_program(program)
    check_run(run)
    if "learning_rate" not in run.hyper:
        raise ValueError(
            f"run.hyper holds {sorted(run.hyper)}; expected 'learning_rate': make the optimizer a "
            "function of hyper, and call program.init(key, batch, {'learning_rate': 0.1})"
        )
    if run.key.ndim:
        raise ValueError(f"run has {run.key.size} lanes; expected one run, or jax.vmap over runs")
    if not 0 < low < high:
        raise ValueError(f"low is {low} and high {high}; expected 0 < low < high")
    at_least("steps", steps, 3, "(for a slope)")
    check_at(data)
    rates = jnp.geomspace(low, high, steps)
    rates = rates.astype(jnp.result_type(run.hyper["learning_rate"], float))
    # the scan's carry must keep its dtype, also where the hyper-parameter was given as an integer
    run = run._replace(hyper={**run.hyper, "learning_rate": rates[0]})

    def step(run, rate):
        run = run._replace(hyper={**run.hyper, "learning_rate": rate})
        run, metrics = program.step(run, data.at(run.step))
        return run, metrics["loss"]

    _, losses = jax.lax.scan(step, run, rates)
    return _read(rates, losses)


def _read(rates: Array, losses: Array) -> RangeTest:
    """Smooth a curve of losses and read the two rates off it."""

    def smooth(mean, loss):
        mean = 0.9 * mean + 0.1 * loss
        return mean, mean

    _, means = jax.lax.scan(smooth, jnp.zeros((), losses.dtype), losses)
    smoothed = jnp.asarray(means) / (1 - 0.9 ** jnp.arange(1, len(losses) + 1))
    finite = jnp.isfinite(smoothed)
    best = jnp.where(finite, smoothed, jnp.inf).min()
    bad = ~finite | (smoothed > 4 * jnp.abs(best))
    after = jnp.arange(len(losses)) > jnp.argmin(jnp.where(finite, smoothed, jnp.inf))
    end = jnp.where((bad & after).any(), jnp.argmax(bad & after), len(losses) - 1)
    slopes = jnp.asarray(jnp.gradient(jnp.where(finite, smoothed, jnp.inf)))
    slopes = jnp.where(jnp.isfinite(slopes) & (jnp.arange(len(losses)) < end), slopes, jnp.inf)
    return RangeTest(
        rates=rates,
        losses=losses,
        smoothed=smoothed,
        steepest=rates[jnp.argmin(slopes)],
        diverges=rates[end],
    )
