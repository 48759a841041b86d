"""Random programs: each log-determinant and each inverse is right, refused or marked."""

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz
from fuzz import check_derivatives, check_inverse, check_log_det
from programs import JOINS, OPERATIONS

parts = st.tuples(
    st.sampled_from(sorted(JOINS)), st.sampled_from(sorted(OPERATIONS)), st.integers(0, 99)
)
short_programs = st.lists(parts, min_size=1, max_size=2)
long_programs = st.lists(parts, min_size=3, max_size=5)
programs = short_programs | long_programs
points = st.integers(0, 99)
pytestmark = pytest.mark.usefixtures("free_memory_after_test")
quiet = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@settings(quiet, max_examples=60, derandomize=True)  # the same in every run
@given(short_programs, points)
def test_log_dets_of_short_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_log_det(chosen, seed)


@settings(quiet, max_examples=50, derandomize=True)
@given(long_programs, points)
def test_log_dets_of_long_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_log_det(chosen, seed)


@settings(quiet, max_examples=10, derandomize=True)
@given(programs, points)
def test_inverses_of_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_inverse(chosen, seed)


@settings(quiet, max_examples=4, derandomize=True)
@given(programs, points)
def test_gradients_and_hessians_of_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_derivatives(chosen, seed)


def test_a_long_fuzz_goes_on_where_it_stopped_and_reports_what_failed(tmp_path, monkeypatch):
    state = tmp_path / "fuzz.json"
    tried = []

    def check(chosen, seed):
        tried.append(seed)
        if seed == 5:
            raise ValueError("wrong")

    def shard(count, index, of, state=state, name="log-det"):
        return fuzz.Shard(name, count, index, of, state)

    for count in (4, 8):
        failures = fuzz.run(shard(count, 0, 1), check)
    assert tried == list(range(8))
    assert [(f["seed"], f["error"]) for f in failures] == [(5, "wrong")]
    assert fuzz.run(shard(8, 0, 1), lambda *_: None) == []
    with pytest.raises(SystemExit, match="holds log-det, shard 0/1, not log-det, shard 1/2"):
        fuzz.run(shard(8, 1, 2), check)
    with pytest.raises(SystemExit, match="not inverse, shard 0/1"):
        fuzz.run(shard(8, 0, 1, name="inverse"), check)
    half = fuzz.run(shard(8, 1, 2, tmp_path / "other.json"), check)
    assert tried[8:] == [1, 3, 5, 7]
    assert len(half) == 1
