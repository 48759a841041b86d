"""Callbacks of ``fit``: functions of ``(run, metrics)`` that are called at chunk borders."""

import json
import math
import os
import time
import weakref
from pathlib import Path

from funcdl.train._checkpoints import save_restore as _checkpoint
from funcdl.train._loop.fit import STOP, Callback

_TIMING = ("step", "seconds", "compile_seconds")  # entries of the metrics that are not measured


def metrics_file(path: str | os.PathLike) -> Callback:
    """Append the metrics of every chunk to a file, one JSON object per line.

    Args:
        path: The file, which is created if it does not exist; a resumed run appends to it.

    Returns:
        A callback.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def callback(_, metrics: dict) -> None:
        with path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    return callback


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
            if k not in _TIMING
        ]
        step = metrics["step"]
        writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()

    return callback


def checkpoint(
    folder: str | os.PathLike, *, every: int, keep: int | None = 2, facts: dict | None = None
) -> Callback:
    """Save the run with ``train.save`` at the first border after every ``every`` steps.

    Args:
        folder: The folder of the checkpoints, which holds one folder per step.
        every: The number of steps between two checkpoints.
        keep: The number of checkpoints to keep; ``None`` keeps all.
        facts: Facts about the run that are stored in each checkpoint; they must be valid JSON.

    Returns:
        A callback.

    Raises:
        ValueError: If ``every < 1``.
    """
    if every < 1:
        raise ValueError(f"every is {every}; expected at least one step")
    last = None  # the number of whole periods at the last border

    def callback(run, metrics: dict) -> None:
        nonlocal last
        period = metrics["step"] // every
        if last is None or period > last:
            if last is not None or period:
                _checkpoint.save(folder, run, facts=facts, keep=keep)
            last = period

    return callback


def early_stop(metric: str = "validation/loss", *, patience: int, mode: str = "min") -> Callback:
    """End the training when a metric has not improved for some chunks.

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
    sign = 1 if mode == "min" else -1
    best, waited = math.inf, 0

    def callback(_, metrics: dict):
        nonlocal best, waited
        if metric not in metrics:
            raise ValueError(f"no metric {metric!r}; fit reports {sorted(metrics)}")
        value = sign * metrics[metric]
        best, waited = (value, 0) if value < best else (best, waited + 1)
        return STOP if waited >= patience else None

    return callback


def progress(steps: int) -> Callback:
    """Show a progress bar with the loss, the metrics and the time per step.

    Without a terminal, a line is printed every 10 %.

    Args:
        steps: The value of ``run.step`` at the end, as passed to ``fit``.

    Returns:
        A callback that writes to stderr and respects ``NO_COLOR``.

    Raises:
        ImportError: If rich is missing (extra ``experiments``).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    bar = Progress("train ", *columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("", total=steps)
    before = tenths = 0

    def callback(_, metrics: dict) -> None:
        nonlocal before, tenths
        step = metrics["step"]
        ms = 1e3 * metrics["seconds"] / max(1, step - before)
        values = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k not in _TIMING)
        text = f"{values}  {ms:.2f} ms/step"
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=step, description=text)
            if step >= steps:
                bar.stop()
        elif step * 10 // steps > tenths:
            console.print(f"train  {step}/{steps}  {text}", highlight=False)
        before, tenths = step, step * 10 // steps

    return callback
