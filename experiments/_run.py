"""What every experiment's command does around its mathematics: folder, console, clock, resume."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def claim(out: Path | None, name: str, root: Path = Path("runs")) -> Path:
    """Choose the folder of a new run.

    Args:
        out: What the user named; refused if a run lies there.
        name: Without one, the first free of ``runs/name``, ``runs/name-2`` and so on.
        root: Where runs lie.

    Returns:
        A folder that holds no run.
    """
    if out is None:
        names = (name if i == 1 else f"{name}-{i}" for i in range(1, 10_000))
        return next(root / n for n in names if not (root / n / "config.json").exists())
    if (out / "config.json").exists():
        raise SystemExit(f"{out} holds a run: go on with --resume {out}, or choose another --out")
    return out


def save_config(config: Any, folder: Path) -> None:
    """Write a dataclass as ``config.json``, in one piece."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(plain(config), indent=2) + "\n")
    os.replace(temporary, folder / "config.json")


def load_config(kind: type, folder: Path) -> Any:
    """Read the dataclass that ``save_config`` wrote."""
    path = folder / "config.json"
    if not path.exists():
        raise SystemExit(f"{folder} holds no run (no config.json); start one with --out {folder}")
    paths = {field.name for field in dataclasses.fields(kind) if "Path" in str(field.type)}
    values = json.loads(path.read_text()).items()
    return kind(**{k: Path(v) if k in paths and v is not None else v for k, v in values})


def plain(config: Any) -> dict:
    """Turn a dataclass into names and values that JSON has."""
    values = dataclasses.asdict(config).items()
    return {k: str(v) if isinstance(v, Path) else v for k, v in values}


def command(*flags: str) -> str:
    """Write the command of this process, or one with other flags, as it can be typed."""
    python = Path(sys.executable)
    if shutil.which("python") == str(python):
        python = Path("python")
    elif python.is_relative_to(Path.cwd()):  # such as the environment of a nox session
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), os.path.relpath(sys.argv[0]), *(flags or sys.argv[1:])])


def cache_compilations() -> None:
    """Keep compiled programs between runs, in the user's cache folder."""
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "funcdl" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def say(label: str, text: str) -> None:
    """Print one line of the run."""
    print(f"{label:8s}{text}", flush=True)


def header(folder: Path, seed: int) -> None:
    """Print versions, device and folder."""
    import jax

    import funcdl
    from funcdl import viz

    device = (
        f"{jax.devices()[0].platform} x{jax.device_count()} ({viz.environment()['cores']} cores)"
    )
    versions = f"funcdl {funcdl.__version__} | jax {jax.__version__} {device}"
    precision = "float64" if jax.config.jax_enable_x64 else "float32"
    print(f"{versions} | {precision} | seed {seed} | {folder}", flush=True)


def footer(folder: Path) -> None:
    """Print what was written and what to type next."""
    files = sorted(folder.iterdir(), key=lambda path: path.name != "report.html")
    size = (folder / "report.html").stat().st_size
    names = [f"{path.name}{'/' * path.is_dir()}" for path in files if path.name != "report.html"]
    say("wrote", f"{folder / 'report.html'} ({size / 1e3:.0f} kB)  {'  '.join(names)}")
    say(
        "next", f"open {folder / 'report.html'} | {command('--help')} | change a line and run again"
    )


def estimates(metrics: dict, examples: int | None = None) -> str:
    """Write metrics with their standard errors."""
    from funcdl import viz

    text = "  ".join(f"{name} {viz.plus_minus(metric)}" for name, metric in metrics.items())
    return text + (f"  ({examples:,} examples)" if examples else "")


def eigenvalues(pairs) -> str:
    """Write the largest eigenvalues, their worst residual and whether they converged."""
    top = " ".join(f"{value:.3g}" for value in pairs.values[:5].tolist())
    worst = float((pairs.residuals / abs(pairs.values)).max())
    sound = "converged" if bool(pairs.converged.all()) else "NOT converged"
    count = len(pairs.values)
    return (
        f"top-{count} {top} …  residual <= {worst:.1g} |λ|, {int(pairs.matvecs)} products, {sound}"
    )


def closing_sections(
    config: Any, defaults: dict, folder: Path, clock: "Clock", raised: list, hashes: dict
) -> list:
    """Make the sections that every report ends with: settings, provenance, time, warnings."""
    import resource

    from funcdl import viz

    kind = type(config)
    usual = plain(kind(**defaults))
    seconds = {name: f"{value:.2f} s" for name, value in clock.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    messages = [
        f"{w.category.__name__}: {w.message} ({Path(w.filename).name}:{w.lineno})" for w in raised
    ]
    reproduce = {f"SHA-256 of {name}": x for name, x in hashes.items()} | {
        "command": command(),
        **({"resume": command("--resume", str(folder))} if hasattr(config, "resume") else {}),
        "git commit": viz.commit(Path(__file__).parent),
        "seed": config.seed,
    }
    return [
        viz.settings("Configuration", plain(config), default=usual),
        viz.settings("Reproducibility", reproduce),
        viz.settings("Environment", viz.environment()),
        viz.settings("Time", seconds | {"peak memory": f"{peak:,.0f} MB"}),
        viz.Section(
            "Warnings", viz.text("none") if not messages else "".join(map(viz.text, messages))
        ),
    ]


class Clock(dict):
    """Seconds by the name of what took them."""

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the block to ``name``."""
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


def fit(program, run, data, steps: int, folder: Path, clock: Clock, facts: dict):
    """Train with a bar, a metrics file and checkpoints; resume from what the folder holds.

    Ctrl-C saves, prints the command that resumes and ends the process with 130.

    Returns:
        The run, and the history of all its steps, those before a resume included.
    """
    from funcdl import train

    checkpoints, log = folder / "checkpoints", folder / "metrics.jsonl"
    if checkpoints.exists():
        with clock("restore"):
            run = train.restore(checkpoints, run)
        say("resume", f"from step {int(run.step)}")
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
            say("saved", f"step {int(stop.run.step)}; resume: {command('--resume', str(folder))}")
        raise SystemExit(130) from None
    with clock("save"):
        train.save(checkpoints, run, facts=facts)
    clock["compile"], clock["step"] = history.compile_seconds, history.step_seconds
    count = len(history.steps)
    each = f"{1e3 * history.step_seconds / count:.2f} ms each, " if count else ""
    say("train", f"{count} steps, {each}compiled in {history.compile_seconds:.1f} s")
    return run, joined(before, history)


def timed(clock: Clock, name: str, f: Callable) -> Callable:
    """Let a function add its time to the clock."""

    def call(*args):
        with clock(name):
            return f(*args)

    return call


def rows_until(log: Path, step: int) -> list[dict]:
    """Read the metrics of the chunks up to a step; what was logged after it will be done again."""
    if not log.exists():
        return []
    rows = [row for row in map(json.loads, log.read_text().splitlines()) if row["step"] <= step]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def joined(rows: list[dict], history):
    """Put the chunks of earlier processes, one value each, before a history."""
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
