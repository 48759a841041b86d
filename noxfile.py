"""Sessions: `nox -l` lists them; `nox -s tests` is the one to start with."""

import itertools

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = True  # a session that is skipped would look passed

GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]
TORCH = "torch==2.13.0"  # installed by pip: uv would fetch the CUDA build, pip finds a CPU build
# In the order of the files: the longest have the fewest tests and would be left to the end.
PYTEST = ("pytest", "--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
# Most of a test's time is compiling; `slow`, `oracles` and plain `pytest` run optimized code.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
RANDOM_PROGRAMS = ("log-det", "inverse", "derivatives")  # what tests/fuzz.py checks
# Where a new jax or a new Python shows first: jaxprs, signatures, adapters, checkpoints, examples.
VERSION_SENSITIVE = (
    *("tests/test_jaxpr.py", "tests/test_source.py", "tests/test_architecture.py"),
    *("tests/test_api.py", "tests/test_closure.py", "tests/test_tree.py", "tests/test_docs.py"),
    *("tests/density", "tests/per_example", "tests/autodiff", "tests/nn/adapters"),
    *("tests/nn/interchange", "tests/operators/core", "tests/train/loop"),
    *("tests/train/checkpoints/test_save_restore.py", "tests/curvature/test_hessian.py", "src"),
)


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
    """Run on the newest Python and the newest jax what a new version may break; `-- .` runs all."""
    session.install("-U", "-e", ".[experiments,checkpoint]", *GROUPS["test"])
    session.run(*PYTEST, *(session.posargs or VERSION_SENSITIVE), env=QUICK)


@nox.session
def lint(session):
    """Check style, format and types."""
    session.install("-e", ".[experiments,checkpoint]", *GROUPS["test"], *GROUPS["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("pyright", "--project", "pyproject.toml", "--pythonpath", f"{session.bin}/python")


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


@nox.session
def fuzz(session):
    """Check thousands of random programs in two shards; it goes on where it was stopped."""
    session.install("-e", ".[experiments,checkpoint]", *GROUPS["test"])
    failed = []
    for check, shard in itertools.product(session.posargs or RANDOM_PROGRAMS, ("0/2", "1/2")):
        try:
            session.run("python", "tests/fuzz.py", check, "--shard", shard, env=QUICK)
        except CommandFailed:  # the others run all the same
            failed.append(f"{check} {shard}")
    if failed:
        session.error(f"these shards failed: {', '.join(failed)}")


@nox.session(python=False)
def nightly(session):
    """Run everything that is too long for each change."""
    for name in ("slow", "oracles", "audit", "fuzz"):
        session.notify(name)


@nox.session(python="3.11", venv_backend="virtualenv")
def bench(session):
    """Write the tables of docs/benchmarks.md; run it on a quiet machine."""
    session.install(TORCH)
    extras = ".[experiments,checkpoint,grain,parquet,equinox,haiku]"
    session.install("-e", extras, TORCH, *GROUPS["peers"], *GROUPS["flows"])
    session.install("--no-deps", *GROUPS["peers-alone"], *GROUPS["flows-alone"])
    session.run("python", "experiments/benchmarks/_tables.py", *session.posargs)
