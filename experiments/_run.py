"""What every experiment's command does around its mathematics: folder, console, clock, report."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple


@dataclasses.dataclass(frozen=True)
class Images:
    """Settings of an experiment on digits or MNIST."""

    data: Literal["digits", "mnist"] = "digits"
    """What is learned."""
    path: Path | None = None
    """Folder of MNIST's four IDX files."""

    def __post_init__(self):
        """Refuse MNIST without its files."""
        if self.data == "mnist" and self.path is None:
            raise SystemExit("--data mnist needs --path DIR, the folder of its four IDX files")

    def split(self) -> tuple:
        """Return training and test set, and what makes floats of the images, if not ``None``."""
        from funcdl import data

        if self.data == "mnist":
            return data.mnist(self.path), data.unit_range
        return data.digits(), None


class Clock(dict):
    """Seconds by the name of what took them."""

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the block to ``name``."""
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


class Job(NamedTuple):
    """Where an experiment runs, and what it takes its time with."""

    folder: Path
    clock: Clock


class Findings(NamedTuple):
    """What an experiment returns: what it found and how to report it."""

    found: dict
    """By name, as ``main`` returns it."""
    verdict: str
    """One line, the first of the report."""
    sections: list
    hashes: dict
    """SHA-256 by the name of what went in or came out."""


def conduct(
    experiment: Callable[[Any, Job], Findings],
    config: Any,
    name: str,
    defaults: dict | None = None,
) -> dict:
    """Do an experiment in a folder of its own, or the one that it resumes, and write its report.

    Args:
        experiment: Takes the settings and a ``Job``.
        config: The settings.
        name: Of the experiment, and of its folder if the settings have no other.
        defaults: The settings that are ``None`` take them.

    Returns:
        ``folder``, and what the experiment found.
    """
    from funcdl import viz

    defaults = defaults or {}
    unset = {k: v for k, v in defaults.items() if getattr(config, k) is None}
    config = dataclasses.replace(config, **unset)
    folder = getattr(config, "resume", None) or claim(config, name)
    job = Job(folder, Clock())
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("default")
        header(folder, config.seed)
        save_config(config, folder)
        findings = experiment(config, job)
        closing = closing_sections(config, defaults, job, raised, findings.hashes)
        report = folder / "report.html"
        sections = [*findings.sections, *closing]
        viz.report(report, title=f"funcdl: {name}", verdict=findings.verdict, sections=sections)
    footer(folder)
    return {"folder": folder, **findings.found}


def command_line(main: Callable, kind: type, description: str) -> None:
    """Run ``main`` on the settings that the command line has."""
    import tyro

    config = tyro.cli(kind, description=description)  # before jax, so that --help is quick
    cache_compilations()
    main(config)


def claim(config: Any, name: str) -> Path:
    """Choose the folder of a new run.

    Args:
        config: Settings with ``out``, the folder that the user named; refused if a run lies there.
        name: Without one, the first free of ``runs/name``, ``runs/name-2`` and so on.

    Returns:
        A folder that holds no run.
    """
    out, root = config.out, Path("runs")
    if out is None:
        names = (name if i == 1 else f"{name}-{i}" for i in range(1, 10_000))
        return next(root / n for n in names if not (root / n / "config.json").exists())
    if (out / "config.json").exists():
        resume = f"go on with --resume {out}, or " if hasattr(config, "resume") else ""
        raise SystemExit(f"{out} holds a run: {resume}choose another --out")
    return out


def save_config(config: Any, folder: Path) -> None:
    """Write a dataclass as ``config.json``, in one piece."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(plain(config), indent=2) + "\n")
    os.replace(temporary, folder / "config.json")


def load_config(config: Any) -> Any:
    """Read the settings of the run that ``config`` resumes, as ``save_config`` wrote them."""
    folder, path = config.resume, config.resume / "config.json"
    if not path.exists():
        raise SystemExit(f"{folder} holds no run (no config.json); start one with --out {folder}")
    paths = {field.name for field in dataclasses.fields(config) if "Path" in str(field.type)}
    values = json.loads(path.read_text()) | {"resume": folder}
    kind = type(config)
    return kind(**{k: Path(v) if k in paths and v is not None else v for k, v in values.items()})


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


def closing_sections(config: Any, defaults: dict, job: Job, raised: list, hashes: dict) -> list:
    """Make the sections that every report ends with: settings, provenance, time, warnings."""
    import resource

    from funcdl import viz

    kind = type(config)
    usual = plain(kind(**defaults))
    seconds = {name: f"{value:.2f} s" for name, value in job.clock.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    messages = [
        f"{w.category.__name__}: {w.message} ({Path(w.filename).name}:{w.lineno})" for w in raised
    ]
    reproduce = {f"SHA-256 of {name}": x for name, x in hashes.items()} | {
        "command": command(),
        **({"resume": command("--resume", str(job.folder))} if hasattr(config, "resume") else {}),
        "git commit": viz.commit(Path(__file__).parent),
        "seed": config.seed,
    }
    return [
        viz.settings_section("Configuration", plain(config), default=usual),
        viz.settings_section("Reproducibility", reproduce),
        viz.settings_section("Environment", viz.environment()),
        viz.settings_section("Time", seconds | {"peak memory": f"{peak:,.0f} MB"}),
        viz.Section(
            "Warnings", viz.text("none") if not messages else "".join(map(viz.text, messages))
        ),
    ]
