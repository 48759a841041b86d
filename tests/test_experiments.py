"""Every experiment runs, says what it left and what to type next, and resumes bit for bit."""

import contextlib
import importlib.util
import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from funcdl import train

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SCRIPTS = sorted(EXPERIMENTS.glob("**/[!_]*.py"))
DIGITS = EXPERIMENTS / "digits.py"
OFTEN = [EXPERIMENTS / f"{name}.py" for name in ("tutorial",)]
EPOCHS, STEPS = 60, 120  # long enough to be interrupted


@contextlib.contextmanager
def first_on_path(folder: Path):
    """Find modules in a folder, as ``python script.py`` does in the script's."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def load(script: Path):
    """Import a script."""
    with first_on_path(script.parent):
        spec = importlib.util.spec_from_file_location(f"experiment_{script.stem}", script)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module


def tiny(script: Path, **more):
    module = load(script)
    with first_on_path(script.parent), jax.numpy_rank_promotion("allow"):  # as where scripts run
        return module.main(module.Config(**(module.TINY | more)))


def params(folder: Path):
    """The parameters of the newest checkpoint, as bytes."""
    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    leaves = (folder / "checkpoints" / str(steps[-1]) / "manifest.json").read_text()
    saved = {leaf["path"]: leaf["sha256"] for leaf in json.loads(leaves)["leaves"]}
    return steps[-1], {path: sha for path, sha in saved.items() if path.startswith("params/")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where runs are made, and what was compiled is kept, for this process and its children."""
    home = tmp_path_factory.mktemp("home")
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(home / "cache" / "funcdl" / "xla"), 0.1)):
        jax.config.update(name, value)
    yield home
    for name, value in zip(names, before):
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def digits(home):
    """One finished run, undisturbed: its folder and what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(home)
        patch.setattr(sys, "argv", [str(DIGITS)])
        result = tiny(DIGITS, epochs=EPOCHS)
    return home / result["folder"], printed.getvalue()


def others():
    """All but digits, which has a fixture; most compile a dozen programs each."""
    scripts = [script for script in SCRIPTS if script != DIGITS]
    marks = {script: [pytest.mark.slow] * (script not in OFTEN) for script in scripts}
    return [pytest.param(script, id=script.stem, marks=marks[script]) for script in scripts]


@pytest.mark.parametrize("script", others())
def test_the_tiny_preset_runs_and_says_what_it_found(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tiny(script)
    assert capsys.readouterr().out.strip()


def with_help():
    """The experiments, and one benchmark; the others are slow, all of one form."""
    often = [s for s in SCRIPTS if s.parent == EXPERIMENTS or s.stem == "training"]
    return [
        pytest.param(s, id=s.stem, marks=[pytest.mark.slow] * (s not in often)) for s in SCRIPTS
    ]


@pytest.mark.parametrize("script", with_help())
def test_help_is_quick_and_does_not_import_jax(script):
    code = f"""
import runpy, sys
sys.path.insert(0, {str(script.parent)!r})
sys.argv = [{str(script)!r}, "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code
assert not {{"jax", "flax", "torch", "matplotlib"}} & set(sys.modules)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "--help" in shown
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_a_run_leaves_report_settings_metrics_and_checkpoints(digits):
    folder, _ = digits
    assert folder.name == "digits"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["checkpoints", "config.json", "metrics.jsonl", "report.html"]
    config = json.loads((folder / "config.json").read_text())
    assert config["epochs"] == EPOCHS
    assert config["learning_rate"] == 2e-3
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(2, STEPS + 1, 2))
    assert np.isfinite([row["loss"] for row in rows]).all()
    assert train.latest(folder / "checkpoints") == params(folder)[0] == STEPS


def test_it_prints_versions_results_with_errors_and_the_next_command(digits):
    folder, text = digits
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert {"funcdl", "data", "model", "train", "test", "hessian", "wrote", "next"} <= set(lines)
    assert f"jax {jax.__version__}" in lines["funcdl"]
    assert "13,706 parameters" in lines["model"]
    assert "accuracy" in lines["test"]
    assert "±" in lines["test"]
    assert "converged" in lines["hessian"]
    assert "report.html" in lines["wrote"]
    assert "digits.py --help" in lines["next"]
    page = (folder / "report.html").read_text()
    assert "--resume runs/digits" in page
    assert len(page.encode()) < 150_000
    assert "<script" not in page


def test_resuming_a_finished_run_changes_nothing_of_it(digits, home, monkeypatch, capsys):
    folder, _ = digits
    before = params(folder), (folder / "metrics.jsonl").read_bytes()
    monkeypatch.chdir(home)
    module = load(DIGITS)
    result = module.main(module.Config(resume=Path("runs/digits")))
    assert result["folder"] == Path("runs/digits")
    assert (params(folder), (folder / "metrics.jsonl").read_bytes()) == before
    assert f"from step {STEPS}" in capsys.readouterr().out


def test_a_folder_that_holds_a_run_is_refused_naming_the_way_out(digits, home, monkeypatch):
    monkeypatch.chdir(home)
    before = sorted((home / "runs").rglob("*"))
    with pytest.raises(SystemExit, match=r"runs/digits.* --resume runs/digits.* --out"):
        tiny(DIGITS, out=Path("runs/digits"))
    assert sorted((home / "runs").rglob("*")) == before


def test_what_cannot_be_resumed_is_not_said_to_be(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"already holds a run; choose another --out$"):
        tiny(EXPERIMENTS / "mixtures.py", out=tmp_path)


@pytest.mark.parametrize("name", ["digits", "spectrum", "generalization"])
def test_mnist_without_its_files_is_refused_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="--data mnist needs --path DIR"):
        tiny(EXPERIMENTS / f"{name}.py", data="mnist")
    assert list(tmp_path.iterdir()) == []


def test_resuming_what_is_no_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = load(DIGITS)
    with pytest.raises(SystemExit, match=r"nothing does not hold a run .* --out nothing"):
        module.main(module.Config(resume=Path("nothing")))
    assert list(tmp_path.iterdir()) == []


def start(home: Path, *flags: str) -> subprocess.Popen:
    environment = os.environ | {"XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, os.path.relpath(DIGITS, home), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=home, env=environment, **pipes)


def test_a_second_start_takes_its_own_folder_and_after_ctrl_c_ends_with_the_same_bits(digits, home):
    """The printed command resumes it, whatever moment it was stopped at."""
    settings = load(DIGITS).TINY | {"epochs": EPOCHS}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    child = start(home, *flags)
    folder = home / "runs" / "digits-2"
    log = folder / "metrics.jsonl"
    while child.poll() is None and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    stopped, _ = params(folder)
    assert 6 <= stopped < STEPS
    (line,) = [line for line in out.splitlines() if line.startswith("saved")]
    assert f"step {stopped};" in line
    python, script, *resume = shlex.split(line.split("resume:")[1])
    assert python in ("python", sys.executable)  # whichever starts this very interpreter
    assert (home / script).resolve() == DIGITS
    assert resume == ["--resume", "runs/digits-2"]
    assert "Traceback" not in out + err

    resumed = start(home, *resume)
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert f"from step {stopped}" in out
    assert params(folder) == params(digits[0])
    rows, straight = (path.read_text().splitlines() for path in (log, digits[0] / log.name))
    keep = ("step", "loss", "accuracy")
    assert [[json.loads(row)[k] for k in keep] for row in rows] == [
        [json.loads(row)[k] for k in keep] for row in straight
    ]
