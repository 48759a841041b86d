"""Callbacks of ``fit``: each a function of ``(run, metrics)``, called at chunk borders."""

import json
import math
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from funcdl.train._checkpoints import save_restore as _checkpoint
from funcdl.train._loop.fit import STOP


def metrics_file(path: str | os.PathLike) -> Callable:
    """Append the metrics of every chunk to a file, one JSON object a line.

    Args:
        path: Made if it is not there; a resumed run goes on in it.

    Returns:
        A callback.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def callback(_, metrics: dict) -> None:
        with path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    return callback


def tensorboard(folder: str | os.PathLike) -> Callable:
    """Write the metrics of every chunk for TensorBoard.

    The tags are ``train/loss``, ``train/accuracy``, ``validation/loss`` and so on, the steps those
    of the optimizer.

    Args:
        folder: Of the event files, one a process; a resumed run goes on in it.

    Returns:
        A callback.

    Raises:
        ImportError: If tensorboardX is missing (extra ``tracking``).
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
    except ImportError as error:
        raise ImportError('tensorboardX is missing: pip install "funcdl[tracking]"') from error
    folder, writer = Path(folder), None

    def callback(_, metrics: dict) -> None:
        nonlocal writer
        if writer is None:  # no file for a fit that is refused
            folder.mkdir(parents=True, exist_ok=True)
            writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            weakref.finalize(callback, writer.close)
        hidden = ("step", "seconds", "compile_seconds")
        values = [
            Summary.Value(tag=k if "/" in k else f"train/{k}", simple_value=v)
            for k, v in metrics.items()
            if k not in hidden
        ]
        step = metrics["step"]
        writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()

    return callback


def checkpoint(
    folder: str | os.PathLike, *, every: int, keep: int | None = 2, facts: dict | None = None
) -> Callable:
    """Save the run with ``train.save`` at the first border after every so many steps.

    Args:
        folder: Where the checkpoints lie, one folder a step.
        every: Steps between two checkpoints.
        keep: How many stay; ``None`` keeps all.
        facts: Stored beside them, for JSON.

    Returns:
        A callback.

    Raises:
        ValueError: If ``every < 1``.
    """
    if every < 1:
        raise ValueError(f"every is {every}; expected at least one step")
    last = None

    def callback(run, metrics: dict) -> None:
        nonlocal last
        period = metrics["step"] // every
        if last is None or period > last:
            if last is not None or period:
                _checkpoint.save(folder, run, facts=facts, keep=keep)
            last = period

    return callback


def early_stop(metric: str = "validation/loss", *, patience: int, mode: str = "min") -> Callable:
    """End the training when a metric has not improved for some chunks.

    Args:
        metric: A name in the metrics of ``fit``.
        patience: How many borders without an improvement end it.
        mode: Whether less is better, ``"min"``, or more, ``"max"``.

    Returns:
        A callback. It raises ``ValueError`` if there is no such metric; those present are named.

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


def progress(steps: int) -> Callable:
    """Show a bar with loss, metrics and ms a step; a line each 10 % where there is no terminal.

    Args:
        steps: The value of ``run.step`` at the end, as ``fit`` gets it.

    Returns:
        A callback that writes to stderr; ``NO_COLOR`` is obeyed.

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
        hidden = ("step", "seconds", "compile_seconds")
        values = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k not in hidden)
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
