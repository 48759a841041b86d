"""Toeplitz matrices beyond elimination: against scipy, and what no recursion can solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import cases
from funcdl import operators
from funcdl.operators._structured import toeplitz as _toeplitz


def dense(c, r):
    i, j = jnp.arange(len(c))[:, None], jnp.arange(len(r))[None]
    return jnp.concatenate([r[:0:-1], c])[len(r) - 1 + i - j]


LARGE = 300  # beyond elimination


def large(kind):
    """Toeplitz matrices of every kind: (column, row or None)."""
    i = np.arange(LARGE)
    spd = np.exp(-i / 20) + 0.1 * (i == 0)
    wave = np.cos(0.3 * i) * np.exp(-i / 20) - 0.3 * (i == 0)
    general = 0.7**i + 0.05 * (i == 0), np.r_[1.05, 0.5 * 0.4 ** i[1:]]
    return {"definite": (spd, None), "indefinite": (wave, None), "general": general}[kind]


@jax.jit
def large_parts(A, b):
    return A.solve(b), A.logdet()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["definite", "indefinite", "general"])
def test_large_toeplitz_systems_are_solved_as_well_as_by_levinson(kind, dtype):
    column, row = large(kind)
    matrix = scipy.linalg.toeplitz(column, row)
    b, eps = cases.normal(3, LARGE), np.finfo(dtype).eps
    with jax.enable_x64(dtype is np.float64):
        A = operators.toeplitz(*(jnp.asarray(x, dtype) for x in (column, row) if x is not None))
        x, logdet = large_parts(A, jnp.asarray(b, dtype))
    size = np.linalg.norm(matrix, 2) * np.linalg.norm(x) + np.linalg.norm(b)
    assert np.linalg.norm(matrix @ np.asarray(x, np.float64) - b) <= 50 * eps * size
    expected = np.linalg.slogdet(matrix)[1]
    np.testing.assert_allclose(logdet, expected, rtol=(1e4 if kind == "indefinite" else 100) * eps)


@pytest.mark.parametrize("kind", ["definite", pytest.param("general", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("x64")
def test_the_derivatives_of_a_large_solve_are_those_of_the_matrix(kind):
    b, d, t = (jnp.asarray(cases.normal(s, LARGE)) for s in (3, 4, 5))
    c, r = (jnp.asarray(x) if x is not None else None for x in large(kind))

    def ours(c, b):
        rest = () if r is None else (r.at[0].set(c[0]),)
        return jnp.sin(operators.toeplitz(c, *rest).solve(b)) @ d

    def plain(c, b):
        return jnp.sin(jnp.linalg.solve(dense(c, c if r is None else r), b)) @ d

    def second(f):
        return jax.jit(lambda: jax.jvp(jax.grad(f, (0, 1)), (c, b), (t, d)))()

    for x, y in zip(jax.tree.leaves(second(ours)), jax.tree.leaves(second(plain))):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * np.abs(y).max())


@pytest.mark.usefixtures("x64")
def test_the_derivative_of_a_large_logdet_is_the_inverse():
    column, _ = large("definite")
    gradient = jax.grad(lambda c: operators.toeplitz(c).logdet())(jnp.asarray(column))
    inverse = np.linalg.inv(scipy.linalg.toeplitz(column))
    diagonals = [np.trace(inverse, k) * (2 if k else 1) for k in range(LARGE)]
    np.testing.assert_allclose(gradient, diagonals, rtol=1e-9, atol=1e-9)


def test_lanes_that_fail_do_not_disturb_others():
    good, bad = large("definite")[0], np.r_[0, 1, np.zeros(LARGE - 2)]
    b = jnp.asarray(cases.normal(0, LARGE), jnp.float32)
    columns = jnp.asarray(np.stack([good, bad]), jnp.float32)
    x = jax.jit(jax.vmap(lambda c: operators.toeplitz(c).solve(b)))(columns)
    for found, column in zip(x, (good, bad)):
        exact = np.linalg.solve(scipy.linalg.toeplitz(column), b)
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


def test_what_is_singular_has_no_solution():
    x, logdet = large_parts(operators.toeplitz(jnp.zeros(LARGE)), jnp.ones(LARGE))
    assert jnp.isnan(x).all()
    assert logdet == -jnp.inf
    small = operators.toeplitz(jnp.asarray([0.0, 1.0])).solve(jnp.asarray([2.0, 3.0]))
    assert small.tolist() == [3.0, 2.0]


def test_the_length_of_a_fourier_transform_is_a_product_of_small_primes():
    for n in (2, 7, 129, 1000, 1025, 8191):
        length = _toeplitz._fast_length(n)
        assert n <= length < 1.15 * n + 2
        assert length % 2 == 0
        for prime in (2, 3, 5):
            while length % prime == 0:
                length //= prime
        assert length == 1


def _column_and_row(name, n):
    column, row = np.zeros(n), np.zeros(n)
    if name == "path adjacency":
        column[1] = row[1] = 1.0
    if name == "central differences":
        column[1], row[1] = -1.0, 1.0
    if name == "shift":
        column[1], row[1] = 1.0, 0.95
    if name == "zero corner":
        column[1:4], row[1:4] = [1.0, -2.0, 0.5], [3.0, 1.0, 2.0]
    return column, row


@pytest.mark.parametrize("name", ["path adjacency", "central differences", "shift", "zero corner"])
@pytest.mark.usefixtures("x64")
def test_singular_leading_matrices_are_eliminated(name):
    n = 300
    column, row = _column_and_row(name, n)
    dense = scipy.linalg.toeplitz(column, row)
    b = cases.normal(0, n)
    symmetric = name == "path adjacency"
    A = operators.toeplitz(*map(jnp.asarray, (column,) if symmetric else (column, row)))
    exact = np.linalg.solve(dense, b)
    np.testing.assert_allclose(A.solve(b), exact, rtol=1e-8, atol=1e-8 * np.abs(exact).max())
    slope = jax.grad(lambda b: A.solve(b).sum())(jnp.asarray(b))
    exact = np.linalg.solve(dense.T, np.ones(n))
    np.testing.assert_allclose(slope, exact, rtol=1e-8, atol=1e-8 * np.abs(exact).max())
    assert operators.solve(A, jnp.asarray(b), tol=1e-6).converged


@pytest.mark.parametrize("name", ["path adjacency", "central differences", "shift", "zero corner"])
@pytest.mark.usefixtures("x64")
def test_the_determinant_of_singular_leading_matrices_is_eliminated(name):
    """The lanes of the maps are a matrix that needs elimination, and one that does not."""
    n = 300
    definite = large("definite")[0]
    lanes = jnp.asarray([_column_and_row(name, n), (definite, definite)])
    symmetric = name == "path adjacency"

    def logdet(lane):
        return operators.toeplitz(*((lane[0],) if symmetric else lane)).logdet()

    def along(lane):
        return jax.jvp(logdet, (lane,), (jnp.cos(lane + 1),))[1]

    values, slopes, tangents = (
        jax.jit(jax.vmap(f))(lanes) for f in (logdet, jax.grad(logdet), along)
    )
    for lane, value, slope, tangent in zip(np.asarray(lanes), values, slopes, tangents):
        matrix = scipy.linalg.toeplitz(lane[0], lane[0] if symmetric else lane[1])
        inverse = np.linalg.inv(matrix)
        below, above = ([np.trace(inverse, sign * k) for k in range(n)] for sign in (1, -1))
        exact = np.asarray([below, np.r_[0, above[1:]]])
        exact = np.asarray([exact.sum(axis=0), np.zeros(n)]) if symmetric else exact
        if not symmetric:  # the corner is that of the column
            slope = slope.at[0, 0].add(slope[1, 0]).at[1, 0].set(0)
        np.testing.assert_allclose(value, np.linalg.slogdet(matrix)[1], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(slope, exact, rtol=1e-8, atol=1e-8 * np.abs(exact).max())
        along_cos = (exact * np.cos(lane + 1)).sum()
        np.testing.assert_allclose(tangent, along_cos, rtol=1e-7, atol=1e-7)
