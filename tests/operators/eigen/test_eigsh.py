"""Eigenpairs against numpy in float64, and the honesty of what is said about them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import cases
from funcdl import operators
from funcdl.operators import eigsh
from funcdl.operators._eigen import eigsh as _eigsh

KEY = jax.random.key(0)


def operator(a, dtype=jnp.float32):
    return operators.from_dense(jnp.asarray(a, dtype), symmetric=True)


def wanted(a, k, which="LM"):
    values = np.linalg.eigvalsh(np.asarray(a, np.float64))
    rank = {"LM": -np.abs(values), "LA": -values, "SA": values}[which]
    return values[np.argsort(rank, kind="stable")][:k]


def true_residuals(a, pairs):
    vectors = np.asarray(pairs.vectors, np.float64)
    values = np.asarray(pairs.values, np.float64)
    return np.linalg.norm(vectors @ np.asarray(a, np.float64).T - values[:, None] * vectors, axis=1)


@pytest.mark.parametrize("which", ["LM", "LA"])
def test_wanted_pairs_are_those_of_numpy_in_float32(which):
    a = np.float32(cases.symmetric(cases.SPECTRA["random"]))
    pairs = eigsh(operator(a), 4, key=KEY, which=which, tol=1e-4)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, wanted(a, 4, which), rtol=1e-5)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(4), atol=1e-5)
    reported, true = np.asarray(pairs.residuals), true_residuals(a, pairs)
    np.testing.assert_allclose(reported, true, atol=5e-6)
    assert (true <= 1e-4 * np.abs(pairs.values) + 5e-6).all()


@pytest.mark.usefixtures("x64")
def test_wanted_pairs_are_those_of_numpy_in_float64():
    a = cases.symmetric(cases.SPECTRA["random"])
    pairs = eigsh(operator(a, jnp.float64), 4, key=KEY, tol=1e-10, which="SA")
    assert pairs.values.dtype == pairs.vectors.dtype == jnp.float64
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, wanted(a, 4, "SA"), rtol=1e-12)
    np.testing.assert_allclose(pairs.residuals, true_residuals(a, pairs), atol=1e-13)


def test_a_longer_problem_that_must_restart_is_solved():
    a = cases.symmetric(np.linspace(-1, 1, 300))
    pairs = eigsh(operator(a), 4, key=KEY, which="SA")
    assert pairs.matvecs > 20 + 4
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.residuals, true_residuals(np.float32(a), pairs), atol=1e-6)
    assert (np.abs(pairs.values - wanted(a, 4, "SA")) <= 2 * pairs.residuals + 1e-6).all()


@pytest.mark.parametrize("name", ["low rank", "multiple", "identity", "zero", "graded"])
def test_degenerate_spectra_are_solved_and_every_pair_is_one(name):
    a = np.float32(cases.symmetric(cases.SPECTRA[name]))
    pairs = eigsh(operator(a), 4, key=KEY, which="LM", tol=1e-4)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(pairs.residuals, true_residuals(a, pairs), atol=5e-6)
    if name != "multiple":  # one start vector finds one copy of each
        np.testing.assert_allclose(pairs.values, wanted(a, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "k"), [("1x1", 1), ("2x2", 1)])
def test_tiny_matrices_are_solved(name, k):
    a = np.float32(cases.symmetric(cases.SPECTRA[name]))
    pairs = eigsh(operator(a), k, key=KEY)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, wanted(a, k), rtol=1e-5)


def test_all_copies_of_a_multiple_eigenvalue_are_found_where_the_space_is_exhausted():
    a = np.float32(cases.symmetric([2.0, 2.0, 2.0, -1.0, -1.0, 0.5]))
    pairs = eigsh(operator(a), 6, key=KEY)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, wanted(a, 6), rtol=1e-5)


@pytest.mark.parametrize("budget", [1, 4])
def test_a_starved_iteration_says_so_and_has_nan_gradients(budget):
    a = jnp.asarray(cases.symmetric(cases.SPECTRA["random"]), jnp.float32)

    def solve(a):
        return eigsh(operators.from_dense(a, symmetric=True), 4, key=KEY, max_matvecs=budget)

    pairs, tangent = jax.jvp(solve, (a,), (a,))
    assert not pairs.converged.any()
    np.testing.assert_allclose(pairs.residuals, true_residuals(a, pairs), rtol=1e-3)
    assert pairs.matvecs == 4 + 4  # no fewer than k, and k to measure the residuals
    with pytest.raises(operators.NotConvergedError, match=r"4 of 4 did not converge.*max_matvecs"):
        operators.require_converged(pairs)
    assert jnp.isnan(tangent.values).all()
    assert jnp.isnan(tangent.vectors).all()


def test_what_converged_passes_require_converged():
    pairs = eigsh(operator(np.diag([3.0, 1.0])), 1, key=KEY)
    assert abs(pairs.values[0] - 3) < 1e-5
    assert operators.require_converged(pairs) is pairs


def test_an_operator_that_only_says_it_is_symmetric_does_not_pass_as_converged():
    """Lanczos believes its projection; only the products that measure residuals tell."""
    skew = cases.normal(9, 30, 30) / 50
    a = np.float32(cases.symmetric(cases.SPECTRA["random"]) + skew - skew.T)
    pairs = eigsh(operator(a), 4, key=KEY, tol=1e-4)
    np.testing.assert_allclose(pairs.residuals, true_residuals(a, pairs), rtol=1e-3)
    assert (pairs.residuals > 0.1).all()
    assert not pairs.converged.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_ends_at_once_and_is_flagged(bad):
    a = cases.symmetric(cases.SPECTRA["random"])
    a[3, 3] = bad
    pairs = eigsh(operator(a), 4, key=KEY, tol=1e-4)
    assert not pairs.converged.any()
    assert jnp.isnan(pairs.residuals).all()
    assert pairs.matvecs <= 20


def tree_operator(a, dtype=jnp.float32):
    like = {"x": [jnp.zeros(10, dtype), jnp.zeros((4, 5), dtype)]}
    return operators.from_function(Partial(_apply, jnp.asarray(a, dtype)), like, symmetric=True)


def _apply(matrix, v):
    flat, unravel = ravel_pytree(v)
    return unravel(matrix @ flat)


def test_trees_and_raveled_vectors_give_the_same_pairs(monkeypatch):
    a = np.float32(cases.symmetric(cases.SPECTRA["random"]))
    flat = eigsh(tree_operator(a), 4, key=KEY, tol=1e-4)
    monkeypatch.setattr(_eigsh, "_SMALL", 0)
    tree = eigsh(tree_operator(a), 4, key=KEY, tol=1e-4)
    assert jax.tree.structure(flat) == jax.tree.structure(tree)
    assert tree.vectors["x"][1].shape == flat.vectors["x"][1].shape == (4, 4, 5)
    assert tree.converged.all()
    np.testing.assert_allclose(flat.values, tree.values, rtol=1e-5)
    one, other = (jax.vmap(lambda v: ravel_pytree(v)[0])(p.vectors) for p in (flat, tree))
    np.testing.assert_allclose(np.abs((one * other).sum(1)), 1, atol=1e-4)
    np.testing.assert_allclose(
        tree.residuals, true_residuals(a, tree._replace(vectors=other)), atol=5e-6
    )


def test_mapped_over_operators_it_is_the_loop_and_jit_is_eager():
    stack = jnp.stack(
        [
            jnp.asarray(cases.symmetric(cases.SPECTRA[name], seed), jnp.float32)
            for seed, name in enumerate(["random", "low rank", "zero"])
        ]
    )
    keys = jax.random.split(KEY, 3)

    def solve(a, key):
        pairs = eigsh(operators.from_dense(a, symmetric=True), 4, key=key, tol=1e-4)
        return pairs._replace(vectors=jax.vmap(jnp.outer)(pairs.vectors, pairs.vectors))

    mapped = jax.jit(jax.vmap(solve))(stack, keys)
    assert mapped.converged.all()
    for i in range(3):
        alone = solve(stack[i], keys[i])
        np.testing.assert_allclose(mapped.values[i], alone.values, atol=1e-4)
        assert abs(mapped.matvecs[i] - alone.matvecs) <= 2  # rounding decides a stop


def test_vectors_are_at_least_float32():
    A = operator(cases.symmetric(cases.SPECTRA["random"]), jnp.bfloat16)
    pairs = jax.eval_shape(lambda A: eigsh(A, 4, key=KEY), A)
    assert pairs.vectors.dtype == pairs.values.dtype == jnp.float32


def test_temporary_memory_is_the_basis():
    n, k = 100_000, 10
    like = jax.ShapeDtypeStruct((n,), jnp.float32)
    u, d = jax.ShapeDtypeStruct((n, 3), jnp.float32), like

    def solve(u, d, key):
        A = operators.from_function(Partial(_diagonal_plus, u, d), like, symmetric=True)
        return eigsh(A, k, key=key)

    compiled = jax.jit(solve).lower(u, d, KEY).compile()
    basis = 3 * k * n * 4
    assert compiled.memory_analysis().temp_size_in_bytes <= 1.3 * basis


def _diagonal_plus(u, d, v):
    return d * v + u @ (u.T @ v)


def test_the_function_is_traced_no_more_often_than_now_and_not_again():
    traces = 0

    def f(matrix, v):
        nonlocal traces
        traces += 1
        return matrix @ v

    for seed in (0, 1):
        a = jnp.asarray(cases.symmetric(cases.SPECTRA["random"], seed), jnp.float32)
        A = operators.from_function(Partial(f, a), jnp.zeros(30), symmetric=True)
        built = traces
        jax.eval_shape(lambda A: eigsh(A, 2, key=KEY), A)
        solved = traces - built
        if seed == 0:
            assert solved <= 4
    assert solved == 0


class TestErrors:
    """Each names the argument, what was expected and what came."""

    def test_an_operator_that_is_not_symmetric_is_refused_and_the_advice_works(self):
        a = jnp.asarray(cases.normal(0, 4, 3), jnp.float32)
        A = operators.from_dense(a)
        with pytest.raises(ValueError, match=r"not marked symmetric.*A\.T @ A"):
            eigsh(A, 1, key=KEY)
        top = eigsh(A.T @ A, 1, key=KEY)
        np.testing.assert_allclose(top.values[0] ** 0.5, np.linalg.norm(a, 2), rtol=1e-4)

    @pytest.mark.parametrize("k", [0, 4, -1])
    def test_k_out_of_range_names_the_range(self, k):
        with pytest.raises(ValueError, match=rf"k is {k}; expected 1 <= k <= 3"):
            eigsh(operator(np.eye(3)), k, key=KEY)


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
def test_evenly_spaced_values_converge_with_orthonormal_vectors(which, key):
    n = 100
    matrix = operators.from_dense(jnp.diag(jnp.arange(1.0, n + 1)), symmetric=True)
    pairs = operators.eigsh(matrix, 3, key=key, which=which)
    expected = [1, 2, 3] if which == "SA" else [n, n - 1, n - 2]
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, expected, rtol=1e-3)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, jnp.eye(3), atol=1e-5)


def test_an_ill_conditioned_hessian_converges_to_the_dense_values(key):
    def rosenbrock(x):
        return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()

    matrix = jax.hessian(rosenbrock)(jnp.ones(50))
    pairs = operators.eigsh(operators.from_dense(matrix, symmetric=True), 3, key=key)
    assert pairs.converged.all()
    dense = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[::-1][:3]
    np.testing.assert_allclose(pairs.values, dense, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_the_scale_of_an_operator_does_not_matter(scale, key):
    matrix = scale * jnp.diag(jnp.arange(1.0, 41))
    pairs = operators.eigsh(operators.from_dense(matrix, symmetric=True), 3, key=key)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values / scale, [40, 39, 38], rtol=1e-3)
    assert (pairs.residuals > 0).all()
