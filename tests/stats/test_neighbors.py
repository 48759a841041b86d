"""Neighbor estimators against closed forms and scikit-learn, and how good their errors are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.feature_selection import mutual_info_regression

import cases
from funcdl.stats import gaussian, neighbors
from funcdl.stats.gaussian import Gaussian

RHO = 0.6
INFORMATION = -0.5 * np.log(1 - RHO**2)


def pairs(seed, n, rho=RHO):
    z = cases.normal(seed, n, 2)
    xy = z @ [[1.0, rho], [0.0, (1 - rho**2) ** 0.5]]
    return jnp.asarray(xy / xy.std(axis=0), jnp.float32)


@pytest.mark.parametrize("k", [1, 4])
def test_the_information_is_that_of_scikit_learn_on_the_same_data(k):
    xy = pairs(0, 600)
    got = neighbors.mutual_information(xy[:, :1], xy[:, 1:], k)
    expected = mutual_info_regression(xy[:, :1], xy[:, 1], n_neighbors=k, random_state=0)
    np.testing.assert_allclose(got.value, expected[0], rtol=2e-3)
    assert abs(got.value - INFORMATION) < 3 * got.stderr


def test_the_information_of_blocks_of_coordinates_is_the_closed_form():
    root = np.eye(3) + 0.5 * cases.normal(1, 3, 3)
    params = Gaussian(jnp.zeros(3), jnp.asarray(root @ root.T, jnp.float32))
    x = jnp.asarray(cases.normal(2, 2000, 3) @ root.T, jnp.float32)
    got = neighbors.mutual_information(x[:, :1], x[:, 1:])
    exact = gaussian.mutual_information(params, [0])
    assert abs(got.value - exact) < 4 * got.stderr + 0.02


@jax.jit
@jax.vmap
def repeated(key):
    z = jax.random.normal(key, (200, 2))
    y = RHO * z[:, :1] + (1 - RHO**2) ** 0.5 * z[:, 1:]
    return neighbors.entropy(z), neighbors.mutual_information(z[:, :1], y)


def test_errors_are_at_most_a_quarter_low_and_cover_the_closed_form_as_often_as_said(key):
    runs = repeated(jax.random.split(key, 300))
    for estimate, exact in zip(runs, (1 + np.log(2 * np.pi), INFORMATION)):
        spread = estimate.value.std()
        assert 0.75 < estimate.stderr.mean() / spread < 1.05
        assert abs(estimate.value.mean() - exact) < spread
        covered = (jnp.abs(estimate.value - exact) < 1.96 * estimate.stderr).mean()
        assert 0.82 < covered < 0.97


def brute(x, k):
    apart = np.sort(np.abs(x[:, None] - x[None]).max(axis=2), axis=1)
    return apart[:, k]


@pytest.mark.usefixtures("x64")
def test_the_entropy_is_its_formula_and_moves_with_scale_and_not_with_place():
    x = cases.normal(3, 50, 2)
    got = neighbors.entropy(jnp.asarray(x), 4).value
    expected = (
        scipy.special.digamma(50) - scipy.special.digamma(4) + 2 * np.log(2 * brute(x, 4)).mean()
    )
    np.testing.assert_allclose(got, expected)
    moved = neighbors.entropy(jnp.asarray(8 * x + 1), 4).value
    np.testing.assert_allclose(moved, got + 2 * np.log(8))


def test_independent_variables_tell_nothing_within_the_error():
    xy = pairs(4, 600, rho=0.0)
    got = neighbors.mutual_information(xy[:, :1], xy[:, 1:])
    assert abs(got.value) < 3 * got.stderr


def test_rows_that_coincide_have_no_density():
    x = jnp.asarray([[0.0], [0.0], [0.0], [1.0], [3.0], [7.0]])
    got = neighbors.entropy(x, 2)
    assert got.value == -jnp.inf
    assert jnp.isnan(got.stderr)
    assert jnp.isfinite(jax.grad(lambda x: neighbors.entropy(x, 2).value)(x)).all()
    assert jnp.isnan(neighbors.mutual_information(x, x, 2).value)


ROUNDED = {
    "integers": lambda x: jnp.round(3 * x),
    "two digits": lambda x: jnp.round(x, 2),
    "repeated": lambda x: x[jnp.arange(len(x)) // 8 * 8],
    "offset": lambda x: x + 1e6,
    "small offset": lambda x: x + 1e4,
}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_and_repeated_values_are_marked(name):
    x, y = jnp.split(pairs(0, 600), 2, axis=1)
    change = ROUNDED[name]
    # one variable of whole numbers alone is exact: its neighbors are those of equal value
    one = [] if name == "integers" else [(change(x), y), (x, change(y))]
    for pair in [*one, (change(x), change(y))]:
        found = neighbors.mutual_information(*pair)
        assert jnp.isnan(found.value)
        assert jnp.isnan(found.stderr)
    found = neighbors.entropy(change(x))
    assert jnp.isnan(found.value) | (found.value == -jnp.inf)
    assert jnp.isnan(found.stderr)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("n", [20, 600, 5000])
def test_what_is_not_rounded_is_not_marked(n, scale):
    xy = scale * pairs(0, n)
    assert jnp.isfinite(neighbors.mutual_information(xy[:, :1], xy[:, 1:]).value)
    assert jnp.isfinite(neighbors.entropy(xy).value)
    assert jnp.isfinite(neighbors.entropy(xy[:, :1] + 2 * scale).value)


def test_memory_does_not_grow_with_the_square_of_the_rows():
    rows = jax.ShapeDtypeStruct((20_000, 5), jnp.float32)
    program = jax.jit(jax.grad(lambda x: neighbors.entropy(x).value)).lower(rows).compile()
    assert program.memory_analysis().temp_size_in_bytes < 64e6  # all distances are 1600e6


@pytest.mark.usefixtures("x64")
def test_the_entropy_is_differentiable_twice_in_both_modes():
    cases.check_second(lambda x: neighbors.entropy(x, 2)[:2], (cases.normal(5, 8, 2),), step=1e-6)


def test_a_few_large_values_do_not_mark_the_others():
    z = np.random.default_rng(0).standard_cauchy((500, 2))
    z[0] = 1e7
    z = jnp.asarray(z, jnp.float32)
    assert jnp.isfinite(neighbors.mutual_information(z[:, :1], z[:, 1:]).value)
    assert jnp.isfinite(neighbors.entropy(z[:, :1]).value)
