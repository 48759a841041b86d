"""Repeat steps exactly: from a checkpoint, or to check that they are deterministic."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._check import at_least, integer
from funcdl._typing import Array, PyTree
from funcdl.train._checkpoints.save_restore import CheckpointError, restore
from funcdl.train._loop.compiled import advance, advance_singly, stack
from funcdl.train._loop.fit import chunk_length, fit, snapshot
from funcdl.train._program import Program, Run, check_program, check_run


class Replay(NamedTuple):
    """One repeated step.

    Attributes:
        before: The run before the step.
        batch: The batch of the step.
        after: The run after the step.
        metrics: The metrics of the step.
    """

    before: Run
    batch: PyTree
    after: Run
    metrics: dict


# The same bits need the same compiled program: XLA may add in another order in a program with
# another loop. Therefore the steps from the checkpoint on, and the step itself, are taken by the
# loop of ``fit`` with the same chunk length; a length of 1 has its own program without a loop. The
# step runs on a copy, because the loop donates its run and the caller needs the run before the
# step. A stream is read again from the step by ``seek``.
def replay(
    folder: str | os.PathLike,
    program: Program,
    data: PyTree,
    *,
    like: Run,
    step: int,
    chunk: int | None = None,
) -> Replay:
    """Repeat one step of a saved run, with the same bits.

    The newest intact checkpoint before the step is restored, and the steps from there on are taken
    by the compiled loop of ``fit``.

    To see the traceback of a step that is not finite, repeat it while JAX checks every result:
    ``with jax.debug_nans(True): program.step(result.before, result.batch)``. To find the operation,
    use ``diagnose(program, result.before, result.batch)``.

    Args:
        folder: The folder that was passed to ``train.checkpoint`` or ``train.save``.
        program: The program of the run.
        data: The data that was passed to ``fit``: ``Batches``, or a stream with ``seek``.
        like: The form of the run: ``jax.eval_shape(program.init, key, batches.form)``, or a run.
        step: The number of the step, counted from 1 as in ``History`` and ``NonFiniteError``.
        chunk: The value that was passed to ``fit``.

    Returns:
        ``(before, batch, after, metrics)``.

    Raises:
        CheckpointError: If no checkpoint before the step is intact and fits.
        FileNotFoundError: If the folder contains no checkpoint before the step.
        NonFiniteError: If a step before this one is not finite.
        TypeError: If ``step`` is not an integer.
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

    This is meant for tests. A program that draws random numbers without its key, data that is not a
    function of the step, or state outside of the run fails here, and would not resume correctly.

    Args:
        program: The program to test.
        run: The run to start from.
        data: ``Batches``, or a stream with ``seek``.
        steps: The value of ``run.step`` at the end.

    Returns:
        The run at the end.

    Raises:
        AssertionError: If two results differ. The message names the first path that differs, and by
            how much.
        ValueError: If the run has already reached ``steps``, or the stream cannot seek.

    >>> import optax
    >>> from funcdl import data, train
    >>> line = train.objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd, batches = train.program(line, optax.sgd(0.25)), data.Batches(jnp.ones(4), 2)
    >>> run = sgd.init(jax.random.key(0), batches.form)
    >>> assert_deterministic(sgd, run, batches, steps=6).step.item()
    6
    """
    check_program(program)
    check_run(run)
    count = integer("steps", steps) - int(run.step)
    if count < 1:
        raise ValueError(f"steps is {steps}, but the run is at step {int(run.step)}; expected more")
    if not (hasattr(data, "at") or hasattr(data, "seek")):
        raise ValueError(_NO_POSITION)
    longest = max(2, count)  # chunks of one step run another compiled program, without a loop
    last, first = _repeated(program, run, data, steps, longest)
    for chunk in (longest, max(2, count // 3)):
        _, again = _repeated(program, run, data, steps, chunk)
        for path, x, y in zip(_tree.paths(first), *map(jax.tree.leaves, (first, again))):
            if x.tobytes() != y.tobytes():
                raise AssertionError(
                    f"steps {int(run.step) + 1} to {steps}, repeated in chunks of {chunk}, result "
                    f"in a different {path!r}: {_difference(x, y)}"
                )
    return last


_NO_POSITION = (
    "data has neither at(step) nor seek(step), so the same steps cannot be read again; pass "
    "data.Batches, or a stream with seek"
)


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
        raise CheckpointError("no intact checkpoint that fits:\n" + "\n".join(refusals))
    raise FileNotFoundError(f"no checkpoint up to step {last}: {folder} has steps {saved}")


def _on_host(batch: PyTree) -> PyTree:
    return jax.tree.map(np.asarray, batch)


def _repeated(program: Program, run: Run, data: PyTree, steps: int, chunk: int) -> tuple[Run, dict]:
    """Return the run after the steps, and all arrays to compare on the host."""
    run, history = fit(program, run, data, steps=steps, chunk=chunk)
    return run, jax.tree.map(_words, {"run": run, "metrics": history.metrics})


def _words(x: Array | np.ndarray) -> np.ndarray:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def _difference(x: np.ndarray, y: np.ndarray) -> str:
    count = int((x != y).sum())
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return f"{count} of {x.size} differ"
    return f"{count} of {x.size} differ, by {float(np.abs(x - y).max()):.3g} at most"
