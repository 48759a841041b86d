"""Train so that Ctrl-C loses nothing: with a metrics file, checkpoints, and a way to resume."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import _run


def fit(program, run, data, steps: int, job: _run.Job, facts: dict):
    """Train with a progress bar, a metrics file and checkpoints; resume from the last checkpoint.

    Ctrl-C saves the run, prints the command that resumes it and ends the process with status 130.

    Returns:
        The run, and the history of all its steps, including those before a resume.
    """
    from funcdl import train

    folder, clock = job
    checkpoints, log = folder / "checkpoints", folder / "metrics.jsonl"
    if checkpoints.exists():
        with clock("restore"):
            run = train.restore(checkpoints, run)
        _run.say("resume", f"from step {int(run.step)}")
    before = rows_until(log, int(run.step))
    callbacks = [
        train.progress(steps),
        train.metrics_file(log),
        timed(clock, "save", train.checkpoint(checkpoints, every=max(1, steps // 2), facts=facts)),
    ]
    try:
        run, history = train.fit(program, run, data, steps=steps, callbacks=callbacks)
    except KeyboardInterrupt as stop:
        if hasattr(stop, "run"):
            train.save(checkpoints, stop.run, facts=facts)
            _run.say(
                "saved",
                f"step {int(stop.run.step)}; resume: {_run.command('--resume', str(folder))}",
            )
        raise SystemExit(130) from None
    with clock("save"):
        train.save(checkpoints, run, facts=facts)
    clock["compile"], clock["step"] = history.compile_seconds, history.step_seconds
    count = len(history.steps)
    each = f"{1e3 * history.step_seconds / count:.2f} ms each, " if count else ""
    _run.say("train", f"{count} steps, {each}compiled in {history.compile_seconds:.1f} s")
    return run, joined(before, history)


def timed(clock: _run.Clock, name: str, f: Callable) -> Callable:
    """Wrap a function so that it adds its time to the clock."""

    def call(*args):
        with clock(name):
            return f(*args)

    return call


def rows_until(log: Path, step: int) -> list[dict]:
    """Read the metrics of the chunks up to a step; later steps will be repeated."""
    if not log.exists():
        return []
    rows = [row for row in map(json.loads, log.read_text().splitlines()) if row["step"] <= step]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def joined(rows: list[dict], history):
    """Prepend the chunks of earlier processes, with one value each, to a history."""
    names = [k for k in history.metrics or (rows[0] if rows else {}) if k not in _NO_METRICS]
    names = [name for name in names if "/" not in name]
    if not rows:
        return history
    steps = np.concatenate([[row["step"] for row in rows], history.steps])
    none = np.zeros(0)
    metrics = {
        k: np.concatenate([[row[k] for row in rows], history.metrics.get(k, none)]) for k in names
    }
    return history._replace(steps=steps, metrics=metrics)


_NO_METRICS = ("step", "seconds", "compile_seconds")
