"""Train so that Ctrl-C loses nothing: with a metrics file, checkpoints, and a way to resume."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import _run


def fit(program, run, data, steps: int, job: _run.Job, facts: dict):
    """Train with a progress bar, a metrics file and checkpoints; resume from the last checkpoint.

    Ctrl-C and SIGTERM save the run, print the command that resumes it and end the process with
    status 130 or 143.

    Returns:
        The run, and the history of all its steps, including those before a resume.
    """
    from funcdl import train

    folder, clock = job
    checkpoints, log = folder / "checkpoints", folder / "metrics.jsonl"
    if any(path.name.isdecimal() for path in checkpoints.glob("*")):
        with clock("restore"):
            run = train.restore(checkpoints, run)
        _run.say("resume", f"from step {int(run.step)}")
    before = rows_until(log, int(run.step))
    saving = train.checkpoint(checkpoints, every=max(1, steps // 2), facts=facts)
    callbacks = [train.progress(steps), train.metrics_file(log), Timed(clock, "save", saving)]
    try:
        run, history = train.fit(program, run, data, steps=steps, callbacks=callbacks)
    except (KeyboardInterrupt, SystemExit) as stop:
        if (step := train.latest(checkpoints)) is not None:
            _run.say("saved", f"step {step}; resume: {_run.command('--resume', str(folder))}")
        raise SystemExit(getattr(stop, "code", 130)) from None
    clock["compile"], clock["step"] = history.compile_seconds, history.step_seconds
    count = len(history.steps)
    each = f"{1e3 * history.step_seconds / count:.2f} ms each, " if count else ""
    _run.say("train", f"{count} steps, {each}compiled in {history.compile_seconds:.1f} s")
    return run, joined(before, history)


class Timed:
    """A callback that adds its time to the clock."""

    def __init__(self, clock: _run.Clock, name: str, callback: Callable):
        self.clock, self.label, self.callback = clock, name, callback

    def __getattr__(self, name):
        return getattr(self.callback, name)

    def __call__(self, run, metrics):
        with self.clock(self.label):
            return self.callback(run, metrics)

    def end(self, run):
        """Save the last run."""
        with self.clock(self.label):
            self.callback.end(run)


def rows_until(log: Path, step: int) -> list[dict]:
    """Read the metrics of the chunks up to a step; those of later steps will be repeated."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if row["step"] <= step]


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
