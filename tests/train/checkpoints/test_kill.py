"""Training killed at random times goes on and ends with the same bytes."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from funcdl.train._checkpoints.save_restore import _steps, latest, save

CHILD = Path(__file__).with_name("kill_child.py")
# the threads of OpenBLAS would make the fork unsafe; most of a child's life is compiling
ENVIRONMENT = {
    **os.environ,
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
}
# seconds after the child enters a phase within which it is killed: start-up, training, writing
WIDTHS = {"s": 0.2, "t": 0.02, "w": 0.12}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and reads /proc")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The parameters of a training that nobody disturbs, in an interpreter of its own."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run([sys.executable, str(CHILD), str(folder)], env=ENVIRONMENT, check=True)
    return Path(f"{folder}.final").read_bytes()


@pytest.fixture
def server():
    """A process that has imported everything and forks a child for each folder it reads."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, str(CHILD)], env=ENVIRONMENT, **pipes) as process:
        yield process
        process.stdin.close()


def start(server, folder):
    phase = Path(f"{folder}.phase")
    phase.write_text("-")
    print(folder, file=server.stdin, flush=True)
    word, pid = server.stdout.readline().split()
    assert word == "pid"
    return int(pid), phase


def kill_in(phase_wanted, pid, phase, rng):
    """Wait for a phase, then a random while, kill; return the phase that the kill met."""
    deadline = time.monotonic() + 60
    while (now := phase.read_text()) not in (phase_wanted, "d"):
        assert time.monotonic() < deadline, "the child makes no progress"
        time.sleep(0.002)
    if now == phase_wanted:
        time.sleep(rng.uniform(0, WIDTHS[phase_wanted]))
    now = phase.read_text()
    with contextlib.suppress(ProcessLookupError):  # it may have ended; its status will tell
        os.kill(pid, 9)
    return now


def wait(server, pid):
    word, done, status = server.stdout.readline().split()
    assert (word, int(done)) == ("done", pid)
    return int(status)


def survive(server, folder, kills, seed):
    """Kill a training so many times, each time where it is; then let it end."""
    rng = np.random.default_rng(seed)
    met = []  # the phase of each kill, upper case where it left a save unfinished
    while len(met) < kills:
        pid, phase = start(server, folder)
        before = latest(folder)
        now = kill_in("swtw"[len(met) % 4], pid, phase, rng)
        status = wait(server, pid)
        assert status in (0, 9)
        if status == 9:
            met.append(now.upper() if any(folder.glob(f"*.unfinished-{pid}")) else now)
        elif before is not None:
            return met  # it ended before the kill came
        assert before is None or latest(folder) >= before, "a sound checkpoint was lost"
    pid, _ = start(server, folder)
    assert wait(server, pid) == 0
    return met


def kill_many(server, tmp_path, expected, kills):
    met = []
    while len(met) < kills:
        folder = tmp_path / f"run{len(met)}"
        met += survive(server, folder, kills - len(met), seed=len(met))
        assert Path(f"{folder}.final").read_bytes() == expected
        assert latest(folder) == max(_steps(folder))
        # a kill may come while the last save prunes; what it leaves goes with the next save
        save(folder, {"next": np.ones(1, "float32")}, step=10**6, keep=None)
        assert not list(folder.glob("*.unfinished-*"))
    return met


def test_eight_kills_end_with_the_same_bytes(server, tmp_path, expected):
    met = kill_many(server, tmp_path, expected, 8)
    assert len(met) == 8
    assert {"s", "S"} & set(met)


@pytest.mark.slow
def test_fifty_kills_end_with_the_same_bytes(server, tmp_path, expected):
    met = kill_many(server, tmp_path, expected, 50)
    print("kills met", {phase: met.count(phase) for phase in sorted(set(met))})
    assert {"s", "t", "W"} <= set(met)
