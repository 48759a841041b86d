"""Least squares, ridge and lasso against numpy and scikit-learn, at full and deficient rank."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model

import cases
from funcdl import linalg

A, B = cases.normal(0, 12, 4), cases.normal(1, 12)
DEFICIENT = A[:, :2] @ cases.normal(2, 2, 4)
PROBLEMS = {
    "tall": (A, B),
    "square": (A[:4], B[:4]),
    "wide": (A[:, :].T[:3], B[:3]),
    "tall, rank 2": (DEFICIENT, B),
    "wide, rank 2": (DEFICIENT.T, B[:4]),
    "identity": (np.eye(3), B[:3]),
    "zeros": (np.zeros((4, 3)), B[:4]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_least_squares_is_the_pseudo_inverse(name, dtype):
    a, b = PROBLEMS[name]
    with jax.enable_x64(True):
        found = linalg.least_squares(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
    tol = {"float32": 1e-5, "float64": 1e-12}[dtype]
    true = np.linalg.pinv(a) @ b
    assert found.x.dtype == dtype
    np.testing.assert_allclose(found.x, true, rtol=tol, atol=tol)
    np.testing.assert_allclose(found.residual, np.linalg.norm(b - a @ true), atol=10 * tol)
    assert found.rank == np.linalg.matrix_rank(a)


@pytest.mark.parametrize(
    "name", cases.often(["tall", "square", "wide", "identity"], ("tall", "wide"))
)
@pytest.mark.usefixtures("x64")
def test_derivatives_of_least_squares_are_those_of_differences(name):
    cases.check_second(lambda a, b: linalg.least_squares(a, b).x, PROBLEMS[name])


@pytest.mark.usefixtures("x64")
def test_derivatives_at_deficient_rank_keep_to_matrices_of_that_rank():
    u, v, b = (jnp.asarray(x) for x in (A[:, :2], cases.normal(2, 2, 4), B))
    du, dv = jnp.asarray(cases.normal(5, 12, 2)), jnp.asarray(cases.normal(6, 2, 4))
    along = jax.jit(lambda t: linalg.least_squares((u + t * du) @ (v + t * dv), b).x)
    h = 1e-4
    true = (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)
    np.testing.assert_allclose(jax.jacfwd(along)(0.0), true, rtol=1e-7, atol=1e-8)
    bend = (along(h) - 2 * along(0.0) + along(-h)) / h**2
    np.testing.assert_allclose(jax.jacfwd(jax.jacrev(along))(0.0), bend, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tall", "wide", "tall, rank 2"])
@pytest.mark.usefixtures("x64")
def test_ridge_is_that_of_scikit_learn(name):
    a, b = PROBLEMS[name]
    true = linear_model.Ridge(0.3, fit_intercept=False).fit(a, b).coef_
    np.testing.assert_allclose(
        linalg.ridge(jnp.asarray(a), jnp.asarray(b), 0.3), true, atol=1e-8, rtol=1e-8
    )


@pytest.mark.parametrize("name", cases.often(["tall", "wide"], ("tall",)))
@pytest.mark.usefixtures("x64")
def test_derivatives_of_ridge_are_those_of_differences(name):
    args = (*map(jnp.asarray, PROBLEMS[name]), jnp.asarray(0.3))
    cases.check_second(linalg.ridge, args)


X = cases.normal(3, 40, 8) + cases.normal(4, 40, 1)
Y = X[:, :3] @ np.asarray([2.0, -1.0, 0.5]) + cases.normal(5, 40)
TOP = np.abs(X.T @ Y).max() / len(Y)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.01])
@pytest.mark.usefixtures("x64")
def test_the_lasso_is_that_of_scikit_learn_and_meets_its_conditions(share):
    penalty = share * TOP
    found = linalg.lasso(jnp.asarray(X), jnp.asarray(Y), penalty, tol=1e-12)
    model = linear_model.Lasso(penalty, fit_intercept=False, tol=1e-12, max_iter=100_000)
    np.testing.assert_allclose(found.x, model.fit(X, Y).coef_, atol=1e-6)
    assert found.converged
    slope = X.T @ (Y - X @ found.x) / len(Y)
    on = np.asarray(found.x != 0)
    np.testing.assert_allclose(slope[on], penalty * np.sign(found.x[on]), atol=1e-6)
    assert (np.abs(slope[~on]) <= penalty + 1e-6).all()


@pytest.mark.usefixtures("x64")
def test_the_gap_bounds_the_distance_to_the_minimum():
    a, b, penalty = jnp.asarray(X), jnp.asarray(Y), 0.1 * TOP

    def objective(x):
        return ((b - a @ x) ** 2).sum() / (2 * len(b)) + penalty * jnp.abs(x).sum()

    best = objective(linalg.lasso(a, b, penalty, tol=1e-13).x)
    for steps in (1, 2, 4):
        found = linalg.lasso(a, b, penalty, tol=1e-13, max_steps=steps)
        assert found.steps == steps
        assert not found.converged
        assert 0 <= objective(found.x) - best <= found.gap + 1e-12


@pytest.mark.usefixtures("x64")
def test_a_path_is_its_single_solutions():
    penalties = jnp.geomspace(TOP, TOP / 100, 6)
    path = jax.jit(lambda p: linalg.lasso_path(jnp.asarray(X), jnp.asarray(Y), p, tol=1e-12))(
        penalties
    )
    assert path.converged.all()
    for x, penalty in zip(path.x, penalties):
        one = linalg.lasso(jnp.asarray(X), jnp.asarray(Y), penalty, tol=1e-12)
        np.testing.assert_allclose(x, one.x, atol=1e-6)
    np.testing.assert_array_equal(path.x[0], 0)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_the_lasso_are_those_of_differences():
    f = lambda a, b, p: linalg.lasso(a, b, p, tol=1e-15, max_steps=10_000).x
    cases.check_second(f, (X, Y, 0.1 * TOP), tol=1e-4, step=1e-5)


def test_a_lasso_that_did_not_converge_has_nan_derivatives():
    f = lambda p: linalg.lasso(jnp.asarray(X), jnp.asarray(Y), p, tol=1e-12, max_steps=1).x
    with jax.enable_x64(True):
        assert jnp.isnan(jax.jacrev(f)(0.1 * TOP)).any()
        assert jnp.isnan(jax.jacfwd(f)(0.1 * TOP)).any()


def test_a_column_of_zeros_has_no_weight_and_does_no_harm():
    a = jnp.asarray(X, jnp.float32).at[:, 1].set(0)
    found, slope = jax.value_and_grad(lambda a: linalg.lasso(a, a[:, 0], 0.01).x.sum())(a)
    assert jnp.isfinite(found)
    assert jnp.isfinite(slope).all()


def test_lanes_of_a_batch_are_what_they_are_alone():
    a = jnp.asarray(
        np.stack([X[:, :3], np.zeros_like(X[:, :3]), np.ones_like(X[:, :3])]), jnp.float32
    )
    b = jnp.asarray(Y, jnp.float32)
    for f in (
        lambda a: linalg.least_squares(a, b).x,
        lambda a: a @ linalg.ridge(a, b, 0.1),
        lambda a: a @ linalg.lasso(a, b, 0.1).x,  # of equal columns only their sum is determined
    ):
        batch = jax.jit(jax.vmap(f))(a)
        for one, lane in zip(a, batch):
            np.testing.assert_allclose(jax.jit(f)(one), lane, rtol=1e-5, atol=1e-6)


def test_sizes_over_one_block_of_rows_sum_up():
    x = cases.normal(7, 5000, 3)
    found = linalg.ridge(jnp.asarray(x, jnp.float32), jnp.asarray(x[:, 1], jnp.float32), 0.0)
    np.testing.assert_allclose(found, [0, 1, 0], atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linalg.least_squares(jnp.asarray(x, jnp.float32), jnp.asarray(x[:, 1], jnp.float32))
