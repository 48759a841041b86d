"""The parts that all experiments share: folder, console, clock and report."""

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
    """The data set."""
    path: Path | None = None
    """The folder of MNIST's four IDX files."""

    def __post_init__(self):
        """Check that MNIST has the path of its files."""
        if self.data == "mnist" and self.path is None:
            raise SystemExit("--data mnist needs --path DIR, the folder of its four IDX files")

    def split(self) -> tuple:
        """Return the training and test sets, and a transform of the images to floats, or None."""
        from funcdl import data

        if self.data == "mnist":
            return data.mnist(self.path), data.unit_range
        return data.digits(), None


class Clock(dict):
    """The seconds spent in each part of the experiment, by name."""

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the block to ``name``."""
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


class Job(NamedTuple):
    """The folder of a running experiment, and its clock."""

    folder: Path
    clock: Clock


class Findings(NamedTuple):
    """The results of an experiment and the contents of its report."""

    found: dict
    """The results by name, as ``main`` returns them."""
    verdict: str
    """A summary in one line, the first of the report."""
    sections: list
    hashes: dict
    """The SHA-256 of inputs and outputs, by name."""


def conduct(
    experiment: Callable[[Any, Job], Findings],
    config: Any,
    name: str,
    defaults: dict | None = None,
) -> dict:
    """Run an experiment in a new folder, or in the one that it resumes, and write its report.

    Args:
        experiment: The experiment, a function of the settings and a ``Job``.
        config: The settings.
        name: The name of the experiment, and of its folder if the settings name none.
        defaults: The values of settings that are ``None``.

    Returns:
        ``folder``, and the results of the experiment.
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
    """Run ``main`` with the settings from the command line."""
    import tyro

    config = tyro.cli(kind, description=description)  # before importing jax: --help is fast
    cache_compilations()
    main(config)


def claim(config: Any, name: str) -> Path:
    """Choose the folder of a new run.

    Args:
        config: Settings with ``out``, the folder that the user named, which must not hold a run.
        name: The name of the folder if ``out`` is ``None``: the first of ``runs/name``,
            ``runs/name-2`` and so on that does not hold a run.

    Returns:
        A folder that does not hold a run.
    """
    out, root = config.out, Path("runs")
    if out is None:
        names = (name if i == 1 else f"{name}-{i}" for i in range(1, 10_000))
        return next(root / n for n in names if not (root / n / "config.json").exists())
    if (out / "config.json").exists():
        resume = f"continue it with --resume {out}, or " if hasattr(config, "resume") else ""
        raise SystemExit(f"{out} already holds a run; {resume}choose another --out")
    return out


def save_config(config: Any, folder: Path) -> None:
    """Write a dataclass to ``config.json`` atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(plain(config), indent=2) + "\n")
    os.replace(temporary, folder / "config.json")


def load_config(config: Any) -> Any:
    """Read the settings of the run that ``config`` resumes, as ``save_config`` wrote them."""
    folder, path = config.resume, config.resume / "config.json"
    if not path.exists():
        raise SystemExit(
            f"{folder} does not hold a run (config.json is missing); start one with --out {folder}"
        )
    paths = {field.name for field in dataclasses.fields(config) if "Path" in str(field.type)}
    values = json.loads(path.read_text()) | {"resume": folder}
    kind = type(config)
    return kind(**{k: Path(v) if k in paths and v is not None else v for k, v in values.items()})


def plain(config: Any) -> dict:
    """Convert a dataclass to names and values that JSON supports."""
    values = dataclasses.asdict(config).items()
    return {k: str(v) if isinstance(v, Path) else v for k, v in values}


def command(*flags: str) -> str:
    """Format the command of this process, or one with other flags, to be typed in a shell."""
    python = Path(sys.executable)
    if shutil.which("python") == str(python):
        python = Path("python")
    elif python.is_relative_to(Path.cwd()):  # the environment of a nox session, for example
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
    """Print the files that were written and suggest the next command."""
    files = sorted(folder.iterdir(), key=lambda path: path.name != "report.html")
    size = (folder / "report.html").stat().st_size
    names = [f"{path.name}{'/' * path.is_dir()}" for path in files if path.name != "report.html"]
    say("wrote", f"{folder / 'report.html'} ({size / 1e3:.0f} kB)  {'  '.join(names)}")
    say(
        "next", f"open {folder / 'report.html'} | {command('--help')} | change a line and run again"
    )


def estimates(metrics: dict, examples: int | None = None) -> str:
    """Format metrics with their standard errors."""
    from funcdl import viz

    text = "  ".join(f"{name} {viz.plus_minus(metric)}" for name, metric in metrics.items())
    return text + (f"  ({examples:,} examples)" if examples else "")


def eigenvalues(pairs) -> str:
    """Format the largest eigenvalues with their worst residual and their convergence."""
    top = " ".join(f"{value:.3g}" for value in pairs.values[:5].tolist())
    worst = float((pairs.residuals / abs(pairs.values)).max())
    sound = "converged" if bool(pairs.converged.all()) else "NOT converged"
    count = len(pairs.values)
    return (
        f"top-{count} {top} …  residual <= {worst:.1g} |λ|, {int(pairs.matvecs)} products, {sound}"
    )


def closing_sections(config: Any, defaults: dict, job: Job, raised: list, hashes: dict) -> list:
    """Build the sections that end every report: settings, provenance, time and warnings."""
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
