"""Successive halving: a sweep that drops its worse lanes on the way, inside one program."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import at_least, integer
from funcdl._typing import Array, Int, PyTree
from funcdl.data import PerLane
from funcdl.train._program import Program, Run
from funcdl.train._transforms.lanes import take
from funcdl.train._unroll import check_at, unroll


class Halving(NamedTuple):
    """What successive halving leaves.

    Attributes:
        run: Of the lanes that were kept, best first.
        lanes: ``(k,)``, where they were among all lanes.
        scores: Of the lanes of each round, ``(n,), (n/2,), ...``; less is better, NaN is worst.
        entered: The lanes of each round, like ``scores``, in their order.
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
    score: Callable | None = None,
    factor: int = 2,
) -> Halving:
    """Train all lanes, keep the better half, train these, and so on.

    One traceable program, without a way back to the host: each round has fewer lanes, and a lane
    that goes on is the one that would have gone on alone. With n lanes and ``factor`` 2, rounds of
    ``(s, s, 2 s, 4 s)`` steps spend equal work on each.

    Args:
        program: With lanes: an ensemble or a sweep.
        run: Of all lanes.
        data: Whatever has ``at(step)``.
        rounds: Steps of each round.
        score: ``score(run) -> (lanes,)``, less is better: a validation loss, say. By default the
            mean of the training loss over the second half of the round.
        factor: Each round keeps the best ``n / factor`` lanes, rounded up.

    Returns:
        The lanes that are left after the last round; ``fit`` goes on with k of them by
        ``ensemble(one, k)`` of the program of one lane.

    Raises:
        TypeError: If a number is no integer, or data has no ``at``.
        ValueError: If the run has no lanes, ``rounds`` is empty or has one without steps, or
            ``factor < 2``.

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
        raise ValueError("run has no lanes; expected one of an ensemble or a sweep")
    if not rounds or min(integer("rounds", steps) for steps in rounds) < 1:
        raise ValueError(f"rounds is {tuple(rounds)}; expected some, each of at least one step")
    at_least("factor", factor, 2)
    check_at(data)
    lanes, scores, entered = jnp.arange(run.key.shape[0]), [], []
    for steps in rounds:
        run, metrics = unroll(program, run, _Chosen(data, lanes), steps=steps)
        found = metrics["loss"][steps // 2 :].mean(axis=0) if score is None else score(run)
        if jnp.shape(found) != lanes.shape:
            raise ValueError(
                f"score(run) has shape {jnp.shape(found)}; expected one number a lane, "
                f"{lanes.shape}"
            )
        scores, entered = [*scores, found], [*entered, lanes]
        best = jnp.argsort(jnp.where(jnp.isnan(found), jnp.inf, found))[: -(-len(lanes) // factor)]
        run, lanes = take(run, best), lanes[best]
    return Halving(run, lanes, tuple(scores), tuple(entered))


class _Chosen(NamedTuple):
    """The batches of some lanes."""

    data: PyTree
    lanes: Array

    def at(self, step) -> PyTree:
        batch = self.data.at(step)
        if not isinstance(batch, PerLane):
            return batch
        return jax.tree.map(lambda x: x[self.lanes], batch)
