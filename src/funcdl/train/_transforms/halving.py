"""Successive halving: a sweep that drops its worse lanes between rounds, in one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import at_least, integer
from funcdl._typing import Array, ArrayLike, Int, PyTree
from funcdl.data import PerLane
from funcdl.train._program import Program, Run
from funcdl.train._transforms.lanes import take
from funcdl.train._unroll import check_at, unroll


class Halving(NamedTuple):
    """The result of successive halving.

    Attributes:
        run: The run of the lanes that were kept, best first.
        lanes: ``(k,)``, the indices of these lanes among all lanes.
        scores: The scores of the lanes in each round, ``(n,), (n/2,), ...``; lower is better, and
            NaN is worst.
        entered: The indices of the lanes in each round, in the order of ``scores``.
    """

    run: Run
    lanes: Int[Array, " k"]
    scores: tuple[Array, ...]
    entered: tuple[Array, ...]


def successive_halving(
    program: Program,
    run: Run,
    data: PyTree,
    *,
    rounds: Sequence[int],
    score: Callable[[Run], ArrayLike] | None = None,
    factor: int = 2,
) -> Halving:
    """Train all lanes, keep the better half, train these further, and so on.

    This is one traceable program without transfers to the host. Each round has fewer lanes, and a
    lane that survives computes the same as it would on its own. With n lanes and ``factor`` 2,
    rounds of ``(s, s, 2 s, 4 s)`` steps spend equal work on each round.

    Args:
        program: A program with lanes, an ensemble or a sweep.
        run: The run of all lanes.
        data: Any object with a method ``at(step) -> batch``.
        rounds: The number of steps of each round.
        score: A function ``score(run) -> (lanes,)``, where lower is better, such as a validation
            loss. The default is the mean training loss over the second half of the round.
        factor: Each round keeps the best ``n / factor`` lanes, rounded up.

    Returns:
        The lanes that remain after the last round. To continue with k of them in ``fit``, use
        ``ensemble(one, k)`` of the program of one lane.

    Raises:
        TypeError: If a number is not an integer, or the data has no ``at``.
        ValueError: If the run has no lanes, ``rounds`` is empty or contains a round without steps,
            or ``factor < 2``.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
    optimization", AISTATS (2016).

    >>> import optax
    >>> from funcdl import data, train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(line, lambda hyper: optax.sgd(hyper["rate"]))
    >>> many, batches = train.sweep(sgd, rate=[0.1, 0.4, 0.5, 2.0]), data.Batches(jnp.zeros(4), 2)
    >>> run = many.init(jax.random.key(0), batches.form)
    >>> successive_halving(many, run, batches, rounds=(2, 2)).lanes.tolist()
    [2]
    """
    if not run.key.ndim:
        raise ValueError("run has no lanes; expected the run of an ensemble or a sweep")
    if not rounds or min(integer("rounds", steps) for steps in rounds) < 1:
        raise ValueError(
            f"rounds is {tuple(rounds)}; expected at least one round, each of at least one step"
        )
    at_least("factor", factor, 2)
    check_at(data)
    lanes, scores, entered = jnp.arange(run.key.shape[0]), [], []
    for steps in rounds:
        run, metrics = unroll(program, run, _OfLanes(data, lanes), steps=steps)
        losses = metrics["loss"][steps // 2 :].mean(axis=0) if score is None else score(run)
        if jnp.shape(losses) != lanes.shape:
            raise ValueError(
                f"score(run) has shape {jnp.shape(losses)}; expected one number per lane, "
                f"{lanes.shape}"
            )
        scores, entered = [*scores, losses], [*entered, lanes]
        order = jnp.argsort(jnp.where(jnp.isnan(losses), jnp.inf, losses))
        best = order[: -(-len(lanes) // factor)]
        run, lanes = take(run, best), lanes[best]
    return Halving(run=run, lanes=lanes, scores=tuple(scores), entered=tuple(entered))


class _OfLanes(NamedTuple):
    """The batches of some of the lanes."""

    data: Any
    lanes: Array

    def at(self, step: Array | int) -> PyTree:
        batch = self.data.at(step)
        if not isinstance(batch, PerLane):
            return batch
        return jax.tree.map(lambda x: x[self.lanes], batch)
