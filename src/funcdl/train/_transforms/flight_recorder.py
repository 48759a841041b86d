"""A flight recorder: the last steps of a run, layer by layer, stored in the run itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import at_least
from funcdl._typing import Array, PyTree
from funcdl.train._program import Program, Run
from funcdl.train._transforms.wrapped import carried, refuse_lanes, wrapped


class Flight(NamedTuple):
    """The ``opt_state`` of a program with a flight recorder.

    Attributes:
        inner: The ``opt_state`` of the inner program.
        rows: ``(length, 1 + 2 leaves)``: the loss, the norms of the parameters, and the norms of
            their changes; the row of step i has the index ``(i - 1) % length``.
        broken: The first step that recorded a number that is not finite, counted from 1; 0 if all
            steps were finite so far. After this step nothing is recorded.
    """

    inner: PyTree
    rows: Array
    broken: Array


class FlightRecord(NamedTuple):
    """The last steps of a run, on the host.

    Attributes:
        steps: ``(s,)``, the numbers of the steps, counted from 1 as in ``History``; the oldest
            comes first.
        loss: ``(s,)``, the loss of each step.
        params: ``path -> (s,)``, the Euclidean norms of the parameters after the step.
        changes: ``path -> (s,)``, the Euclidean norms of the step's changes of the parameters.
        broken: The first step that was not finite, which is the last one recorded; ``None`` if all
            steps were finite.
    """

    steps: np.ndarray
    loss: np.ndarray
    params: dict[str, np.ndarray]
    changes: dict[str, np.ndarray]
    broken: int | None

    @property
    def suspects(self) -> list[str]:
        """The paths of the parameters that were not finite after the broken step."""
        if self.broken is None:
            return []
        return [path for path, norms in self.params.items() if not np.isfinite(norms[-1])]

    def __str__(self):
        if not self.steps.size:
            return "no step was taken yet"
        if self.broken is None:
            return f"steps {self.steps[0]} to {self.steps[-1]} are finite"
        names = ", ".join(map(repr, self.suspects[:5])) or "none"
        more = f" and {len(self.suspects) - 5} more" * (len(self.suspects) > 5)
        return (
            f"step {self.broken} is the first that is not finite: its loss is {self.loss[-1]:.6g}, "
            f"and of the parameters after it {names}{more} of {len(self.params)}"
        )


def flight_recorder(program: Program, *, length: int = 64) -> Program:
    """Record the loss and the norms of parameters and changes, by layer, of the last steps.

    The record is part of the run and is written in the compiled loop. Read it with
    ``flight_record(run)``; after a ``NonFiniteError``, which names the step and the layers, it is
    ``error.flight``.

    Args:
        program: The program that trains.
        length: The number of steps to keep.

    Returns:
        A program with the same metrics and the same training.

    Raises:
        TypeError: If ``length`` is not an integer.
        ValueError: If ``length < 1``, or the program is an ensemble (use the ensemble of the
            recorded program instead).

    >>> import optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: {"w": jnp.ones(2)}, lambda p, x: (p["w"] ** 2).sum())
    >>> sgd = flight_recorder(train.program(line, optax.sgd(0.25)), length=2)
    >>> run = sgd.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> for _ in range(3):
    ...     run, _ = sgd.step(run, jnp.ones((1, 2)))
    >>> record = flight_record(run)
    >>> record.steps.tolist(), record.loss.tolist(), record.changes["w"].round(3).tolist()
    ([2, 3], [0.5, 0.125], [0.354, 0.177])
    """
    at_least("length", length, 1, "step")

    # ``rows`` is a ring buffer. Once a step is broken, each later step writes the old row back, so
    # that the record still shows the steps before the break, however long the chunk goes on.
    def start(run: Run, batch) -> Flight:
        refuse_lanes(run, "record its members: ensemble(flight_recorder(program), n)")
        loss = jax.eval_shape(program.step, run, batch)[1]["loss"]
        row = jax.eval_shape(_row, loss, run.params, run.params)
        rows = jnp.zeros((length, *row.shape), row.dtype)
        return Flight(inner=run.opt_state, rows=rows, broken=jnp.int32(0))

    def advance(run: Run, own: Flight, batch) -> tuple[Run, Flight, dict]:
        new, metrics = program.step(run, batch)
        row = _row(metrics["loss"], new.params, _tree.subtract(new.params, run.params))
        # the squares overflow above 1e19 in float32; only then the slower scaled norms are needed
        scaled = lambda: _scaled_row(metrics["loss"], new.params, run.params)
        row = jax.lax.cond(jnp.isfinite(row).all(), lambda: row, scaled)
        index, is_broken = run.step % length, own.broken > 0
        old_row = jax.lax.dynamic_index_in_dim(own.rows, index, keepdims=False)
        kept_row = jnp.where(is_broken, old_row, row)
        rows = jax.lax.dynamic_update_index_in_dim(own.rows, kept_row, index, 0)
        broken = jnp.where(is_broken | jnp.isfinite(row).all(), own.broken, run.step + 1)
        return new, own._replace(rows=rows, broken=broken), metrics

    return wrapped(program, start, advance)


def flight_record(run: Run) -> FlightRecord:
    """Read the flight recorder of a run.

    Args:
        run: The run of a program with a flight recorder at any depth of transforms. For a run with
            lanes, select one with ``train.lane`` first.

    Returns:
        The recorded steps.

    Raises:
        ValueError: If the run has no flight recorder, or has lanes.
    """
    flight = carried(run, Flight)
    if flight is None:
        raise ValueError("the run has no flight record; train with train.flight_recorder(program)")
    if run.key.ndim:
        raise ValueError(
            f"the run has {run.key.size} lanes; read one: flight_record(train.lane(run, i))"
        )
    rows, broken = np.asarray(flight.rows), int(flight.broken)
    last = broken or int(run.step)
    steps = np.arange(max(0, last - len(rows)), last)
    loss, *norms = rows[steps % len(rows)].T
    paths = _tree.paths(run.params)
    params, changes = (dict(zip(paths, norms[i:])) for i in (0, len(paths)))
    return FlightRecord(
        steps=steps + 1, loss=loss, params=params, changes=changes, broken=broken or None
    )


def broken_record(run: Run) -> FlightRecord | None:
    """Return the record of the lane that was the first one to become not finite."""
    flight = carried(run, Flight)
    broken = np.zeros(1) if flight is None else np.asarray(flight.broken)
    if not broken.any():
        return None
    first = np.where(broken > 0, broken, np.inf).argmin()
    lane = np.unravel_index(first, broken.shape)
    one = jax.tree.map(lambda leaf: leaf[lane], run._replace(step=None))  # lanes share the step
    return flight_record(one._replace(step=run.step))


def _row(loss: Array, params: PyTree, changes: PyTree) -> Array:
    leaves = jax.tree.leaves((params, changes))
    squares = [jnp.square(leaf.astype(_tree.wide(leaf.dtype))).sum() for leaf in leaves]
    return jnp.concatenate([loss[None], jnp.sqrt(jnp.stack(squares))])


def _scaled_row(loss: Array, new: PyTree, old: PyTree) -> Array:
    leaves = jax.tree.leaves((new, _tree.subtract(new, old)))
    return jnp.concatenate([loss[None], jnp.stack([_tree.norm(leaf) for leaf in leaves])])
