"""A flight recorder: the last steps of a run, layer by layer, kept in the run itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import at_least
from funcdl._typing import Array, PyTree
from funcdl.train._program import Program, Run


class Flight(NamedTuple):
    """The ``opt_state`` of a program with a flight recorder.

    Attributes:
        inner: Of the program itself.
        rows: ``(length, 1 + 2 leaves)``: loss, norms of the parameters, norms of their changes;
            the row of step i is at ``(i - 1) % length``.
        broken: The first step of which a number is not finite, counted from 1; 0 while there is
            none. After it nothing is recorded.
    """

    inner: PyTree
    rows: Array
    broken: Array


class FlightRecord(NamedTuple):
    """The last steps of a run, on the host.

    Attributes:
        steps: ``(s,)``, their numbers, counted from 1 as in ``History``; the oldest first.
        loss: ``(s,)``.
        params: ``path -> (s,)``, Euclidean norms after the step. One above 1e19 in float32 counts
            as infinite.
        changes: ``path -> (s,)``, norms of what the step added.
        broken: The first step that was not finite, the last recorded; ``None`` if there is none.
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
    """Record loss, and norms of parameters and of their changes by layer, of the last steps.

    The record is part of the run, in the compiled loop: read it with ``flight_record(run)``, and
    after a ``NonFiniteError``, which names step and layers, as ``error.flight``.

    Args:
        program: What is trained.
        length: How many steps are kept.

    Returns:
        A program with the same metrics and the same training.

    Raises:
        TypeError: If ``length`` is no integer.
        ValueError: If ``length < 1``, or the program is an ensemble (take the ensemble of what is
            recorded).

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

    def init(key, batch, hyper: dict | None = None) -> Run:
        run = program.init(key, batch, hyper)
        if run.key.ndim:
            raise ValueError(
                "program is an ensemble, whose run has lanes; record its members: "
                "ensemble(flight_recorder(program), n)"
            )
        loss = jax.eval_shape(program.step, run, batch)[1]["loss"]
        row = jax.eval_shape(_row, loss, run.params, run.params)
        rows = jnp.zeros((length, *row.shape), row.dtype)
        return run._replace(opt_state=Flight(run.opt_state, rows, jnp.int32(0)))

    def step(run: Run, batch) -> tuple[Run, dict]:
        inner, rows, broken = run.opt_state
        new, metrics = program.step(run._replace(opt_state=inner), batch)
        row = _row(metrics["loss"], new.params, _tree.subtract(new.params, run.params))
        # squares overflow from 1e19 on: only then is it worth a second look
        look = lambda: _scaled_row(metrics["loss"], new.params, run.params)
        row = jax.lax.cond(jnp.isfinite(row).all(), lambda: row, look)
        at, over = run.step % length, broken > 0
        before = jax.lax.dynamic_index_in_dim(rows, at, keepdims=False)
        rows = jax.lax.dynamic_update_index_in_dim(rows, jnp.where(over, before, row), at, 0)
        broken = jnp.where(over | jnp.isfinite(row).all(), broken, run.step + 1)
        return new._replace(opt_state=Flight(new.opt_state, rows, broken)), metrics

    return Program(init, step)


def flight_record(run: Run) -> FlightRecord:
    """Read the flight recorder of a run.

    Args:
        run: Of a program with a flight recorder, wherever in it; of lanes take one, by
            ``train.lane``.

    Returns:
        The steps it holds.

    Raises:
        ValueError: If the run has no flight recorder, or has lanes.
    """
    flight = _flight(run)
    if flight is None:
        raise ValueError("the run has no flight record; train train.flight_recorder(program)")
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
    return FlightRecord(steps + 1, loss, params, changes, broken or None)


def broken_record(run: Run) -> FlightRecord | None:
    """Return the record that tells of the first step that was not finite, of all lanes of a run."""
    flight = _flight(run)
    broken = np.zeros(1) if flight is None else np.asarray(flight.broken)
    if not broken.any():
        return None
    first = np.where(broken > 0, broken, np.inf).argmin()
    lane = np.unravel_index(first, broken.shape)
    one = jax.tree.map(lambda leaf: leaf[lane], run._replace(step=None))
    return flight_record(one._replace(step=run.step))


def _row(loss, params: PyTree, changes: PyTree) -> Array:
    leaves = jax.tree.leaves((params, changes))
    squares = [jnp.square(leaf.astype(_tree.wide(leaf.dtype))).sum() for leaf in leaves]
    return jnp.concatenate([loss[None], jnp.sqrt(jnp.stack(squares))])


def _scaled_row(loss, new: PyTree, old: PyTree) -> Array:
    leaves = jax.tree.leaves((new, _tree.subtract(new, old)))
    return jnp.concatenate([loss[None], jnp.stack([_tree.norm(leaf) for leaf in leaves])])


def _flight(run: Run) -> Flight | None:
    here = lambda x: isinstance(x, Flight)
    return next(filter(here, jax.tree.leaves(run.opt_state, is_leaf=here)), None)
