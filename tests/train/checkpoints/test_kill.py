"""Training killed at random times goes on and ends with the same bytes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from funcdl.train._checkpoints.manifest import CheckpointError
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


@pytest.fixture(scope="module")
def server():
    """A process that has imported everything and forks a child for each folder it reads."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, str(CHILD)], env=ENVIRONMENT, **pipes) as process:
        yield process
        process.stdin.close()


def start(server, folder, *words):
    phase = Path(f"{folder}.phase")
    phase.write_text("-")
    print(*words, folder, file=server.stdin, flush=True)
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


def signals(pid, kind, rng):
    """Send what ends a training from outside, at a random time."""
    time.sleep(rng.uniform(0, 0.3))
    for number in {"sigint twice": [2, 2], "sigint": [2], "sigterm": [15], "sigkill": [9]}[kind]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        time.sleep(rng.uniform(0, 0.05))


STATUS = {"sigint twice": {130}, "sigint": {130}, "sigterm": {143}, "sigkill": {9}}


def stop_many(server, tmp_path, expected, kind, stops):
    """Stop a training by ``fit`` again and again; it resumes and loses nothing."""
    rng, count, folder = np.random.default_rng(stops), 0, tmp_path / "run0"
    while count < stops:
        pid, phase = start(server, folder, "fit")
        before, deadline = latest(folder), time.monotonic() + 60
        while phase.read_text() not in ("t", "d"):
            assert time.monotonic() < deadline, "the child makes no progress"
            time.sleep(0.002)
        signals(pid, kind, rng)
        status = wait(server, pid)
        status = os.waitstatus_to_exitcode(status) if status else 0
        assert abs(status) in {0, *STATUS[kind]}
        assert before is None or latest(folder) >= before, "a sound checkpoint was lost"
        assert latest(folder) == max(_steps(folder), default=None)
        assert kind == "sigkill" or not (folder / ".lock").exists()
        if status:
            count += 1
        else:
            assert Path(f"{folder}.final").read_bytes() == expected
            folder = tmp_path / f"run{count}-again"
    pid, _ = start(server, folder, "fit")
    assert wait(server, pid) == 0
    assert Path(f"{folder}.final").read_bytes() == expected
    rows = [json.loads(line)["step"] for line in Path(f"{folder}.jsonl").read_text().splitlines()]
    assert rows == sorted(set(rows)), "a step is in the metrics twice"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The parameters of a training by ``fit`` that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    command = [sys.executable, str(CHILD), "fit", str(folder)]
    subprocess.run(command, env=ENVIRONMENT, check=True)
    return Path(f"{folder}.final").read_bytes()


@pytest.mark.parametrize("kind", STATUS)
def test_a_stopped_training_resumes_with_the_same_bytes(server, tmp_path, fitted, kind):
    stop_many(server, tmp_path, fitted, kind, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATUS)
def test_thirty_stops_end_with_the_same_bytes(server, tmp_path, fitted, kind):
    stop_many(server, tmp_path, fitted, kind, 30)


def check_sound(folder, before, expected):
    """Nothing that was saved is lost, nobody holds the folder, and every step is logged once."""
    assert before is None or latest(folder) >= before, "a sound checkpoint was lost"
    assert latest(folder) == max(_steps(folder), default=None)
    if Path(f"{folder}.final").exists():
        assert Path(f"{folder}.final").read_bytes() == expected
    log = Path(f"{folder}.jsonl")
    rows = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert rows == sorted(set(rows)), "a step is in the metrics twice"


def fail_many(server, tmp_path, expected, kind, failures):
    """Let the disk fail again and again; the training ends with an error, and then resumes."""
    rng, count, folder = np.random.default_rng(failures), 0, tmp_path / "run0"
    while count < failures:
        before = latest(folder)
        at = rng.integers((before or 0) + 1, 160)
        amount = rng.integers(0, 20_000) if kind == "full" else rng.integers(0, 12)
        pid, _ = start(server, folder, "fit", kind, at, amount)
        status = os.waitstatus_to_exitcode(wait(server, pid))
        assert status in (0, 1)
        check_sound(folder, before, expected)
        count += status
        if status == 0 or (latest(folder) or 0) > 140:
            pid, _ = start(server, folder, "fit")
            assert wait(server, pid) == 0
            assert Path(f"{folder}.final").read_bytes() == expected
            folder = tmp_path / f"run{count}-again"
    pid, _ = start(server, folder, "fit")
    assert wait(server, pid) == 0
    assert Path(f"{folder}.final").read_bytes() == expected
    save(folder, {"next": np.ones(1, "float32")}, step=10**6, keep=None)
    assert not list(folder.glob("*.unfinished-*"))


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_training_whose_disk_failed_resumes_with_the_same_bytes(server, tmp_path, fitted, kind):
    fail_many(server, tmp_path, fitted, kind, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_thirty_failures_of_the_disk_end_with_the_same_bytes(server, tmp_path, fitted, kind):
    fail_many(server, tmp_path, fitted, kind, 30)


def share_many(server, tmp_path, expected, times):
    """Start two trainings in one folder; one of them trains, and the other is refused."""
    rng = np.random.default_rng(times)
    for i in range(times):
        folder = tmp_path / f"run{i}"
        pid, _ = start(server, folder, "two", rng.uniform(0, 1))
        # 0: one came when the other had ended, and 1 or 2: one of them was refused
        assert os.waitstatus_to_exitcode(wait(server, pid)) in (0, 1, 2)
        check_sound(folder, 160, expected)
        assert not (folder / ".lock").exists()


def test_two_trainings_in_one_folder_end_with_the_same_bytes(server, tmp_path, fitted):
    share_many(server, tmp_path, fitted, 2)


@pytest.mark.slow
def test_thirty_pairs_of_trainings_in_one_folder_end_with_the_same_bytes(server, tmp_path, fitted):
    share_many(server, tmp_path, fitted, 30)


def test_of_two_processes_in_one_folder_the_second_is_rejected(tmp_path):
    """It names the owner, which goes on; a killed owner does not block the folder."""
    code = (
        "import sys, time; from pathlib import Path; from funcdl.train._checkpoints import lock\n"
        "release = lock.acquire(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    run = {"w": np.ones(2, np.float32)}
    for _ in range(2):
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout.readline() == "held\n"
            with pytest.raises(CheckpointError, match=rf"in use by process {owner.pid} on \S+,"):
                save(tmp_path, run, step=1)
            assert latest(tmp_path) is None
            owner.kill()
    assert (tmp_path / ".lock").exists()
    save(tmp_path, run, step=1)
    assert latest(tmp_path) == 1
    assert not (tmp_path / ".lock").exists()


def test_eight_kills_end_with_the_same_bytes(server, tmp_path, expected):
    met = kill_many(server, tmp_path, expected, 8)
    assert len(met) == 8
    assert {"s", "S"} & set(met)


@pytest.mark.slow
def test_fifty_kills_end_with_the_same_bytes(server, tmp_path, expected):
    met = kill_many(server, tmp_path, expected, 50)
    print("kills met", {phase: met.count(phase) for phase in sorted(set(met))})
    assert {"s", "t", "W"} <= set(met)
