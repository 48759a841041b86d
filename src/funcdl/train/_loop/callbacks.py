"""Callbacks of ``fit``: functions of ``(run, metrics)`` that are called at chunk borders."""

import itertools
import json
import math
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from funcdl.train._loop import hooks
from funcdl.train._loop.fit import STOP, Callback
from funcdl.train._program import Run

TIMING = ("step", "seconds", "compile_seconds")  # entries of the metrics that are not measured


def metrics_file(path: str | os.PathLike) -> Callback:
    """Append the metrics of every chunk to a file, one JSON object per line.

    A number that is not finite is written as ``null``.

    Args:
        path: The file, which is created if it does not exist. A resumed run appends to it, after
            the lines of later steps have been removed, because those steps are repeated. A run that
            starts at step 0 renames an existing file to ``<name>.old``.

    Returns:
        A callback.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _MetricsFile(path)


class _MetricsFile:
    def __init__(self, path: Path):
        self.path = path

    def begin(self, run: Run, _: Sequence[Callable]) -> None:
        """Remove the lines of the steps that will be repeated."""
        if not self.path.exists():
            return
        if int(run.step) == 0:
            self.path.rename(_free(self.path.with_name(f"{self.path.name}.old")))
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= int(run.step)]
        if kept != lines:
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            draft.write_text("".join(kept))
            draft.replace(self.path)

    def __call__(self, _: Any, metrics: dict) -> None:
        row = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def _free(path: Path) -> Path:
    """Return the path, numbered if it is taken."""
    paths = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return next(p for p in itertools.chain([path], paths) if not p.exists())


def _step_of(line: str) -> float:
    """Return the step of a line; infinity for one that was cut off when the process was killed."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def tensorboard(folder: str | os.PathLike) -> Callback:
    """Write the metrics of every chunk for TensorBoard.

    The tags are ``train/loss``, ``train/accuracy``, ``validation/loss`` and so on; the steps are
    those of the optimizer.

    Args:
        folder: The folder of the event files, one file per process; a resumed run adds to it.

    Returns:
        A callback.

    Raises:
        ImportError: If tensorboardX is missing (extra ``tracking``).
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import (
            Summary,  # pyright: ignore[reportAttributeAccessIssue]
        )
    except ImportError as error:
        raise ImportError('tensorboardX is missing: pip install "funcdl[tracking]"') from error
    folder, writer = Path(folder), None

    def callback(_, metrics: dict) -> None:
        nonlocal writer
        if writer is None:  # opened late, so that a rejected call of fit leaves no file
            folder.mkdir(parents=True, exist_ok=True)
            writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            weakref.finalize(callback, writer.close)
        values = [
            Summary.Value(tag=k if "/" in k else f"train/{k}", simple_value=v)
            for k, v in metrics.items()
            if k not in TIMING
        ]
        step = metrics["step"]
        writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()

    return callback


def early_stop(metric: str = "validation/loss", *, patience: int, mode: str = "min") -> Callback:
    """End the training when a metric has not improved for some chunks.

    A metric that is not finite is not an improvement. The count starts again with every run; it
    continues where a run continues, also after a resume if the run was saved by ``checkpoint`` in
    the same list of callbacks.

    Args:
        metric: The name of a metric that ``fit`` reports.
        patience: The number of chunk borders without an improvement after which training ends.
        mode: ``"min"`` if lower is better, or ``"max"`` if higher is better.

    Returns:
        A callback. It raises ``ValueError`` if ``fit`` does not report this metric; the message
        lists the reported ones.

    Raises:
        ValueError: If ``patience < 1`` or ``mode`` is neither.

    >>> stop = early_stop("loss", patience=2)
    >>> [stop(None, {"loss": x}) for x in (3.0, 2.0, 2.5, 2.0)]
    [None, None, None, train.STOP]
    """
    if patience < 1 or mode not in ("min", "max"):
        raise ValueError(
            f"patience is {patience} and mode {mode!r}; expected at least 1, and 'min' or 'max'"
        )
    return _EarlyStop(metric, patience, mode)


class _EarlyStop:
    def __init__(self, metric: str, patience: int, mode: str):
        self.metric, self.patience, self.sign = metric, patience, 1 if mode == "min" else -1
        self.name = f"early_stop {mode} {metric}"
        self.state, self.left = _FRESH, None

    def begin(self, run: Run, _: Sequence[Callable]) -> None:
        """Start again, unless the run continues where the last one ended."""
        if hooks.position(run) != self.left:
            self.state = _FRESH

    def __call__(self, _: Any, metrics: dict) -> Any:
        if self.metric not in metrics:
            raise ValueError(f"no metric {self.metric!r}; fit reports {sorted(metrics)}")
        value, best = self.sign * metrics[self.metric], self.state["best"]
        if math.isfinite(value) and (best is None or value < best):
            self.state = {"best": value, "waited": 0}
        else:
            self.state = {"best": best, "waited": self.state["waited"] + 1}
        return STOP if self.state["waited"] >= self.patience else None

    def end(self, run: Run | None) -> None:
        """Note where the run was left."""
        self.left = None if run is None else hooks.position(run)


_FRESH = {"best": None, "waited": 0}
