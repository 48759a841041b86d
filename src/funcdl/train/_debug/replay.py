"""Take steps again, exactly: from a checkpoint, or to see that they are the same."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import at_least, integer
from funcdl._typing import PyTree
from funcdl.train._checkpoints.save_restore import CheckpointError, restore
from funcdl.train._loop.compiled import advance, advance_singly, stack
from funcdl.train._loop.fit import chunk_length, fit, snapshot
from funcdl.train._program import Program, Run


class Replay(NamedTuple):
    """One step, taken again.

    Attributes:
        before: The run before it.
        batch: What it saw.
        after: The run after it.
        metrics: Of the step.
    """

    before: Run
    batch: PyTree
    after: Run
    metrics: dict


def replay(
    folder: str | os.PathLike,
    program: Program,
    data: PyTree,
    *,
    like: Run,
    step: int,
    chunk: int | None = None,
) -> Replay:
    """Take one step of a saved run again, with the same bits.

    The newest sound checkpoint before the step is restored, and the steps from there on are taken
    by the compiled loop of ``fit``.

    To see the traceback of a step that is not finite, take it by hand where jax looks at every
    result: ``with jax.debug_nans(True): program.step(found.before, found.batch)``.
    ``diagnose(program, found.before, found.batch)`` names the operation.

    Args:
        folder: Where ``train.checkpoint`` or ``train.save`` saved.
        program: That of the run.
        data: As ``fit`` took it: ``Batches``, or a stream with ``seek``.
        like: The form of the run: ``jax.eval_shape(program.init, key, batches.form)``, or a run.
        step: Which one, counted from 1 as in ``History`` and ``NonFiniteError``.
        chunk: As ``fit`` had it.

    Returns:
        ``(before, batch, after, metrics)``.

    Raises:
        CheckpointError: No checkpoint before the step is sound and fits.
        FileNotFoundError: There is none.
        NonFiniteError: A step before this one is not finite.
        TypeError: If ``step`` is no integer.
        ValueError: If ``step < 1``, or the stream cannot seek.
    """
    at_least("step", step, 1, "(the first)")
    if not (hasattr(data, "at") or hasattr(data, "seek")):
        raise ValueError(_NO_POSITION)
    length = chunk_length(data, chunk)
    run = _newest(Path(folder), like, step - 1)
    before, _ = fit(program, run, data, steps=step - 1, chunk=length)
    if not hasattr(data, "at"):
        data.seek(step - 1)
        data = stack(map(_on_host, data), step - 1, 1, length, getattr(data, "put", jnp.asarray))
    copy = snapshot(before)
    if length == 1:
        after, done = advance_singly(program, copy, data, first=True)
    else:
        after, done = advance(program, copy, data, 1, length)
    batch = jax.jit(type(data).at)(data, before.step)
    return Replay(before, batch, after, {name: x[0] for name, x in done.log.items()})


def assert_deterministic(program: Program, run: Run, data: PyTree, *, steps: int) -> Run:
    """Take the same steps three times, once in shorter chunks, and compare all bytes.

    For tests: a program that draws outside of its key, data that is not a function of the step, or
    a state outside of the run fails here, and would fail to resume.

    Args:
        program: ``init`` and ``step``.
        run: Where to start.
        data: ``Batches``, or a stream with ``seek``.
        steps: The value of ``run.step`` at the end.

    Returns:
        The run there.

    Raises:
        AssertionError: Names the first path that differs, and by how much.
        ValueError: If no step is to be taken, or the stream cannot seek.

    >>> import optax
    >>> from funcdl import data, train
    >>> line = train.objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd, batches = train.program(line, optax.sgd(0.25)), data.Batches(jnp.ones(4), 2)
    >>> run = sgd.init(jax.random.key(0), batches.form)
    >>> assert_deterministic(sgd, run, batches, steps=6).step.item()
    6
    """
    count = integer("steps", steps) - int(run.step)
    if count < 1:
        raise ValueError(f"steps is {steps}, but the run is at step {int(run.step)}; expected more")
    if not (hasattr(data, "at") or hasattr(data, "seek")):
        raise ValueError(_NO_POSITION)
    whole = max(2, count)  # a chunk of one step is another program
    last, first = _taken(program, run, data, steps, whole)
    for chunk in (whole, max(2, count // 3)):
        _, again = _taken(program, run, data, steps, chunk)
        for path, x, y in zip(_tree.paths(first), *map(jax.tree.leaves, (first, again))):
            if x.tobytes() != y.tobytes():
                raise AssertionError(
                    f"steps {int(run.step) + 1} to {steps} taken again, in chunks of {chunk}, give "
                    f"another {path!r}: {_difference(x, y)}"
                )
    return last


_NO_POSITION = "data has neither at(step) nor seek(step): the same steps cannot be read again"


def _newest(folder: Path, like: Run, last: int) -> Run:
    """Restore the newest sound checkpoint up to a step."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    saved = sorted(int(name) for name in names if name.isdecimal())
    refusals = []
    for step in reversed([step for step in saved if step <= last]):
        try:
            return restore(folder, like, step=step)
        except CheckpointError as refusal:
            refusals.append(str(refusal))
    if refusals:
        raise CheckpointError("no sound checkpoint that fits:\n" + "\n".join(refusals))
    raise FileNotFoundError(f"no checkpoint up to step {last}: {folder} has steps {saved}")


def _on_host(batch: PyTree) -> PyTree:
    return jax.tree.map(np.asarray, batch)


def _taken(program: Program, run: Run, data, steps: int, chunk: int) -> tuple[Run, dict]:
    """Return the run after some steps, and all there is to compare on the host."""
    run, history = fit(program, run, data, steps=steps, chunk=chunk)
    return run, jax.tree.map(_words, {"run": run, "metrics": history.metrics})


def _words(x) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def _difference(x: np.ndarray, y: np.ndarray) -> str:
    count = int((x != y).sum())
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return f"{count} of {x.size} differ"
    return f"{count} of {x.size} differ, by {float(np.abs(x - y).max()):.3g} at most"
