"""Random programs: each log-determinant and each inverse is right, refused or marked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funcdl import density
from programs import JOINS, OPERATIONS, N, program

parts = st.tuples(
    st.sampled_from(sorted(JOINS)), st.sampled_from(sorted(OPERATIONS)), st.integers(0, 99)
)
programs = st.lists(parts, min_size=1, max_size=5)
points = st.integers(0, 99)
quiet = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def check_log_det(chosen, seed):
    """Compare with the dense Jacobian, where that is well conditioned or clearly singular."""
    f, x = program(chosen), jnp.asarray(np.random.default_rng(seed).normal(size=N))
    with jax.disable_jit():
        jacobian = np.asarray(jax.jacfwd(f)(x))
        y, found = density.value_and_log_det(f)(x)
    if not np.isfinite(jacobian).all():
        return
    np.testing.assert_allclose(y, f(x), rtol=1e-9, atol=1e-12)
    scaled = jacobian / np.maximum(np.abs(jacobian).max(1, keepdims=True), 1e-300)
    singular = np.linalg.svd(scaled, compute_uv=False)
    condition = singular[0] / max(singular[-1], 1e-300)
    expected = np.linalg.slogdet(jacobian)[1]
    if condition < 1e9:
        assert np.isclose(found, expected, rtol=1e-6, atol=1e-6), (found, expected, condition)
    elif condition > 1e18 and not np.isnan(found):
        assert found == -np.inf or found < expected + 5, (found, expected, condition)


def check_inverse(chosen, seed):
    """A finite answer is mapped to y; of a map that is proved injective, it is the point."""
    f, x = program(chosen), jnp.asarray(np.random.default_rng(seed).normal(size=N))
    y = f(x)
    jacobian = np.asarray(jax.jacfwd(f)(x))
    if not np.isfinite(jacobian).all():
        return
    try:
        found = density.inverse(f)(y)
    except density.NotInjectiveError:
        return
    if not np.isfinite(found).all():
        return
    np.testing.assert_allclose(f(found), y, rtol=1e-8, atol=1e-8)
    condition = np.linalg.cond(jacobian)
    if condition < 1e6 and density.inspect(f, x).injective == "proved":
        np.testing.assert_allclose(found, x, rtol=1e-8 * condition, atol=1e-8 * condition)


@settings(quiet, max_examples=500, derandomize=True)  # the same in every run
@given(programs, points)
def test_log_dets_of_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_log_det(chosen, seed)


@settings(quiet, max_examples=15, derandomize=True)
@given(programs, points)
def test_inverses_of_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_inverse(chosen, seed)


@pytest.mark.slow
@settings(quiet, max_examples=10_000)
@given(programs, points)
def test_log_dets_of_many_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_log_det(chosen, seed)


@pytest.mark.slow
@settings(quiet, max_examples=1_000)
@given(programs, points)
def test_inverses_of_many_random_programs(chosen, seed):
    with jax.enable_x64(True):
        check_inverse(chosen, seed)
