"""The callback that saves a run every few steps, and in any case where training ends."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from funcdl.train._checkpoints import lock, save_restore
from funcdl.train._loop.fit import Callback
from funcdl.train._program import Run


def checkpoint(
    folder: str | os.PathLike, *, every: int, keep: int | None = 2, facts: dict | None = None
) -> Callback:
    """Save the run with ``train.save`` every ``every`` steps, and where the training ends.

    The training may end at its last step, by ``train.STOP``, by an error, Ctrl-C or SIGTERM; only a
    run that is not finite is not saved. ``fit`` cuts its chunks at the steps to save. While it
    trains, no other process can save to the folder. The states of the other callbacks, such as
    ``early_stop``, are saved too, and restored when ``fit`` resumes from a step in the folder.

    Args:
        folder: The folder of the checkpoints, which holds one folder per step.
        every: The number of steps between two checkpoints.
        keep: The number of checkpoints to keep; ``None`` keeps all.
        facts: Facts about the run that are stored in each checkpoint, such as the list of its
            classes; they must be valid JSON.

    Returns:
        A callback. Before the first step, ``fit`` raises ``CheckpointError`` if the folder holds
        another run, or steps after this run's step although the run was not restored from there, or
        if another process is writing to it; ``ValueError`` if the facts differ; and ``OSError`` if
        the folder cannot be written to.

    Raises:
        ValueError: If ``every < 1``.
    """
    if every < 1:
        raise ValueError(f"every is {every}; expected at least one step")
    return _Checkpoint(Path(folder), every, keep, facts)


class _Checkpoint:
    name = "checkpoint"

    def __init__(self, folder: Path, every: int, keep: int | None, facts: dict | None):
        self.folder, self.every, self.keep, self.facts = folder, every, keep, facts
        self.cleanup = contextlib.ExitStack()
        self.others, self.saved = (), None

    def begin(self, run: Run, callbacks: Sequence[Callable]) -> dict:
        """Take the folder, and return the states of the callbacks at the run's step in it."""
        self.cleanup.callback(lock.acquire(self.folder))
        save_restore.check_free(self.folder, run, self.facts)
        self.others = [c for c in callbacks if hasattr(c, "state") and hasattr(c, "name")]
        self.saved = int(run.step)  # where it starts there is nothing new
        return save_restore.read_states(self.folder, self.saved) if self.others else {}

    def due(self, step: int) -> int:
        """Return the next multiple of ``every``."""
        return (step // self.every + 1) * self.every

    def __call__(self, run: Run, metrics: dict) -> None:
        step = metrics["step"]
        if self.saved is None or step // self.every > self.saved // self.every:
            self._save(run, step)

    def end(self, run: Run | None) -> None:
        """Save the last run, and leave the folder."""
        with self.cleanup:
            has_begun = self.saved is not None
            if run is not None and has_begun and int(run.step) != self.saved:
                self._save(run, int(run.step))
            self.others, self.saved = (), None

    def _save(self, run: Run, step: int) -> None:
        states = {callback.name: callback.state for callback in self.others}
        save_restore.write(self.folder, run, step, self.facts, self.keep, states)
        self.saved = step
