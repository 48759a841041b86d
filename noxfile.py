"""Sessions: `nox -s demo`, `tests`, `lint`, `newest`, `oracles`, `slow`, `audit`, `bench`."""

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests"]

GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]
TORCH = (
    "torch==2.13.0"  # installed by pip: uv would fetch the CUDA build where a CPU build is at hand
)
# in the order of the files: the longest have the fewest tests, and would be left to the end
PYTEST = ("pytest", "--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
# Most of a test's time is compiling; `slow`, `oracles` and plain `pytest` run optimized code.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@nox.session
def demo(session):
    """Train on real data and write a report: the main job."""
    session.install("-e", ".[experiments,checkpoint]")
    session.run("python", "experiments/digits.py", *session.posargs)


@nox.session
def tests(session):
    """Run the test suite and every docstring's example."""
    session.install("-e", ".[experiments,checkpoint]", *GROUPS["test"])
    session.run(*PYTEST, *session.posargs, env=QUICK)


@nox.session(python="3.13")
def newest(session):
    """Run the test suite on the newest Python and the newest jax."""
    session.install("-U", "-e", ".[experiments,checkpoint]", *GROUPS["test"])
    session.run(*PYTEST, *session.posargs, env=QUICK)


@nox.session
def lint(session):
    """Check style and format."""
    session.install(*GROUPS["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def slow(session):
    """Run what takes minutes: 50 kills of a training child, coverage of error bars."""
    session.install("-e", ".[experiments,checkpoint]", *GROUPS["test"])
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session(python="3.11", venv_backend="virtualenv")
def oracles(session):
    """Compare with independent libraries."""
    session.install(TORCH)
    session.install("-e", ".[experiments,checkpoint]", *GROUPS["test"], *GROUPS["oracles"])
    session.run("pytest", "-m", "oracle", *session.posargs)


@nox.session(python="3.11")
def audit(session):
    """Audit the log-determinants of distrax and flowjax; turn their bijectors into densities."""
    session.install("-e", ".[experiments]", *GROUPS["test"], *GROUPS["flows"])
    session.install("--no-deps", *GROUPS["flows-alone"])
    session.run("pytest", "-m", "oracle", "tests/density")
    session.run("python", "experiments/audit.py", *session.posargs)


@nox.session(python="3.11", venv_backend="virtualenv")
def bench(session):
    """Print the tables of benchmarks that the README shows; run it on a quiet machine."""
    session.install(TORCH)
    extras = ".[experiments,checkpoint,grain,parquet,equinox,haiku]"
    session.install("-e", extras, TORCH, *GROUPS["peers"])
    session.install("--no-deps", *GROUPS["peers-alone"])
    scripts = session.posargs or sorted(map(str, Path("experiments/benchmarks").glob("[!_]*.py")))
    for script in scripts:
        session.run("python", script)
