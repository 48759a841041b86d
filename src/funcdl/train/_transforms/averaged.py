"""Averages of the iterates, carried along in the run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import PyTree
from funcdl.nn import Variables
from funcdl.train._program import Program, Run


class Averaged(NamedTuple):
    """The ``opt_state`` of an averaged program.

    Attributes:
        inner: Of the program itself.
        variables: The averages of parameters and state.
    """

    inner: PyTree
    variables: Variables


def averaged(program: Program, *, decay: float = 0.999) -> Program:
    r"""Keep an exponential moving average of parameters and state.

    .. math:: a_t = d_t a_{t-1} + (1 - d_t) \theta_t, \quad d_t = \min(d, 1 - 1 / t)

    It is the plain mean of the first :math:`1 / (1 - d)` steps, and forgets what is older from then
    on; the initialization does not enter. Averaging the state keeps batch statistics those of the
    averaged network's trajectory; counters are the newest. ``average(run)`` reads it.

    Args:
        program: What is trained; it does not see the average.
        decay: d, in [0, 1).

    Returns:
        A program with the same metrics.

    Raises:
        ValueError: If the decay is out of range.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992).

    >>> import optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> program = averaged(train.program(line, optax.sgd(0.25)))
    >>> run = program.init(jax.random.key(0), jnp.zeros(2))
    >>> for _ in range(2):
    ...     run, _ = program.step(run, jnp.zeros(2))
    >>> run.params.item(), average(run).params.item()
    (0.25, 0.375)
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; expected 0 <= decay < 1")

    def init(key, batch, hyper: dict | None = None) -> Run:
        run = program.init(key, batch, hyper)
        copied = jax.tree.map(jnp.copy, run.variables)  # a run is donated: no leaf may come twice
        return run._replace(opt_state=Averaged(run.opt_state, copied))

    def step(run: Run, batch) -> tuple[Run, dict]:
        inner, old = run.opt_state
        run, metrics = program.step(run._replace(opt_state=inner), batch)
        weight = jnp.maximum(1 - decay, 1 / run.step)
        mean = lambda a, x: (a + weight * (x - a)).astype(a.dtype)
        newest = lambda a, x: mean(a, x) if jnp.issubdtype(a.dtype, jnp.floating) else x
        new = jax.tree.map(newest, old, run.variables)
        return run._replace(opt_state=Averaged(run.opt_state, new)), metrics

    return Program(init, step)


def average(run: Run) -> Variables:
    """Read the average of an averaged program's run.

    Args:
        run: Of ``averaged``, or of a program made from it.

    Returns:
        What ``evaluate`` and ``predict`` take; with lanes where the run has them.

    Raises:
        ValueError: If the run carries none.
    """
    is_average = lambda x: isinstance(x, Averaged)
    for x in jax.tree.leaves(run.opt_state, is_leaf=is_average):
        if is_average(x):
            return x.variables
    raise ValueError("run carries no average; train with train.averaged(program)")
