"""Averages of the iterates, carried as part of the run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import PyTree
from funcdl.nn import Variables
from funcdl.train._program import Program, Run
from funcdl.train._transforms.wrapped import carried, wrapped


class Averaged(NamedTuple):
    """The ``opt_state`` of an averaged program.

    Attributes:
        inner: The ``opt_state`` of the inner program.
        variables: The averages of parameters and state.
    """

    inner: PyTree
    variables: Variables


def averaged(program: Program, *, decay: float = 0.999) -> Program:
    r"""Keep an exponential moving average of parameters and state.

    .. math:: a_t = d_t a_{t-1} + (1 - d_t) \theta_t, \quad d_t = \min(d, 1 - 1 / t)

    Over the first :math:`1 / (1 - d)` steps this is the plain mean; from then on, older iterates
    are forgotten. The initialization does not enter. The state is averaged as well, so the batch
    statistics are averages over the same steps as the parameters; integer counters keep their
    newest value. Use ``average(run)`` to read the average.

    Args:
        program: The program that trains; it does not see the average.
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

    def start(run: Run, _batch) -> Averaged:
        # a run is donated, so no array may be a leaf twice
        return Averaged(inner=run.opt_state, variables=jax.tree.map(jnp.copy, run.variables))

    def advance(run: Run, own: Averaged, batch) -> tuple[Run, Averaged, dict]:
        run, metrics = program.step(run, batch)
        weight = jnp.maximum(1 - decay, 1 / run.step)
        mean = lambda a, x: (a + weight * (x - a)).astype(a.dtype)
        updated = lambda a, x: mean(a, x) if jnp.issubdtype(a.dtype, jnp.floating) else x
        variables = jax.tree.map(updated, own.variables, run.variables)
        return run, own._replace(variables=variables), metrics

    return wrapped(program, start, advance)


def average(run: Run) -> Variables:
    """Read the average from the run of an averaged program.

    Args:
        run: A run of ``averaged(program)``, or of a program that was built from it.

    Returns:
        The averaged variables, as ``evaluate`` and ``predict`` take them; with lanes where the run
        has lanes.

    Raises:
        ValueError: If the run carries no average.
    """
    averages = carried(run, Averaged)
    if averages is None:
        raise ValueError("run carries no average; train with train.averaged(program)")
    return averages.variables
