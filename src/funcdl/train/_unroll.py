"""Training as a function that can be differentiated, and what is read off such runs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import at_least, integer
from funcdl._typing import Array, Float, PyTree
from funcdl.train._program import Program, Run


def unroll(
    program: Program, run: Run, data: PyTree, *, steps: int, segments: int = 1
) -> tuple[Run, dict]:
    """Take some steps under ``lax.scan``: traceable, and differentiable in any leaf of the run.

    The gradient of what the run reached, in learning rate, initialization or data, is that of this
    function (a hypergradient). Reverse mode keeps the runs between segments and what one segment
    computes: about the square root of ``steps`` is best. Forward mode, for few hyper-parameters,
    keeps nothing. Optimizers that take roots of moments, as Adam does, need ``eps_root > 0``: a
    parameter whose gradient is 0 has a derivative of 0 times infinity, NaN.

    Args:
        program: ``init`` and ``step``.
        run: Where to start.
        data: Whatever has ``at(step)``.
        steps: How many are taken.
        segments: Consecutive parts of equal length, whose steps are computed again for a gradient.

    Returns:
        The run and ``{name: (steps, ...)}`` metrics.

    Raises:
        TypeError: If ``steps`` or ``segments`` is no integer, or data has no ``at``.
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
            f"steps is {steps} and segments {segments}; expected steps >= 0 that segments divide"
        )
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


def check_at(data) -> None:
    """Refuse data that is no function of the step.

    Raises:
        TypeError: If it has no ``at``.
    """
    if not callable(getattr(data, "at", None)):
        raise TypeError(
            f"data is a {type(data).__name__}; expected what has at(step), such as data.Batches"
        )


class RangeTest(NamedTuple):
    """The loss while the learning rate grows.

    Attributes:
        rates: ``(s,)``, of each step.
        losses: ``(s,)``, of each step's batch, before the step.
        smoothed: ``(s,)``, their exponential mean, without bias.
        steepest: The rate at which the smoothed loss falls fastest in the logarithm of the rate,
            which is a sound first choice.
        diverges: The first rate at which the smoothed loss is 4 times its minimum or not finite;
            the largest one if there is none.
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

    Traceable, so that ``jax.vmap`` over runs shows how much it varies. The run is left as it is.

    Args:
        program: Its optimizer is a function of ``hyper["learning_rate"]``.
        run: Where to start.
        data: Whatever has ``at(step)``.
        low: a, the first rate.
        high: b, the last one.
        steps: How many.

    Returns:
        The curve and the rates to be read off.

    Raises:
        TypeError: If ``steps`` is no integer, or data has no ``at``.
        ValueError: If the run has no such hyper-parameter or has lanes, not ``0 < low < high``, or
            ``steps < 3``.

    Source: Smith, "Cyclical learning rates for training neural networks", WACV (2017).

    >>> import optax
    >>> from funcdl import data, train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(line, lambda hyper: optax.sgd(hyper["learning_rate"]))
    >>> batches = data.Batches(jnp.zeros(4), 2)
    >>> run = sgd.init(jax.random.key(0), batches.form, {"learning_rate": 0.0})
    >>> found = learning_rate_range_test(sgd, run, batches, low=1e-3, high=100.0, steps=60)
    >>> 0.05 < found.steepest < 1.0 < found.diverges  # |1 - 2 rate| > 1 from 1 on
    Array(True, dtype=bool)
    """
    if "learning_rate" not in run.hyper:
        raise ValueError(
            f"run.hyper holds {sorted(run.hyper)}; expected 'learning_rate': an optimizer that is "
            "a function of hyper, and program.init(key, batch, {'learning_rate': 0.1})"
        )
    if run.key.ndim:
        raise ValueError(f"run has {run.key.size} lanes; expected one run, or jax.vmap over runs")
    if not 0 < low < high:
        raise ValueError(f"low is {low} and high {high}; expected 0 < low < high")
    at_least("steps", steps, 3, "(for a slope)")
    check_at(data)
    rates = jnp.geomspace(low, high, steps)
    rates = rates.astype(jnp.result_type(run.hyper["learning_rate"], float))
    run = run._replace(hyper={**run.hyper, "learning_rate": rates[0]})  # a float, if it was none

    def step(run, rate):
        run = run._replace(hyper={**run.hyper, "learning_rate": rate})
        run, metrics = program.step(run, data.at(run.step))
        return run, metrics["loss"]

    _, losses = jax.lax.scan(step, run, rates)
    return _read(rates, losses)


def _read(rates: Array, losses: Array) -> RangeTest:
    """Smooth a curve of losses and read the rates off."""

    def smooth(mean, loss):
        mean = 0.9 * mean + 0.1 * loss
        return mean, mean

    _, means = jax.lax.scan(smooth, jnp.zeros((), losses.dtype), losses)
    smoothed = means / (1 - 0.9 ** jnp.arange(1, len(losses) + 1))
    finite = jnp.isfinite(smoothed)
    best = jnp.where(finite, smoothed, jnp.inf).min()
    bad = ~finite | (smoothed > 4 * jnp.abs(best))
    after = jnp.arange(len(losses)) > jnp.argmin(jnp.where(finite, smoothed, jnp.inf))
    end = jnp.where((bad & after).any(), jnp.argmax(bad & after), len(losses) - 1)
    slopes = jnp.gradient(jnp.where(finite, smoothed, jnp.inf))
    slopes = jnp.where(jnp.isfinite(slopes) & (jnp.arange(len(losses)) < end), slopes, jnp.inf)
    return RangeTest(rates, losses, smoothed, rates[jnp.argmin(slopes)], rates[end])
