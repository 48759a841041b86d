"""A matrix between trees: it solves what the operator it was written out from cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import operators

A = cases.symmetric(np.linspace(1, 3, 5))


def tree(v):
    return {"a": v[:2].reshape(2, 1), "b": v[2:]}


def flat(t):
    return jnp.concatenate([t["a"].reshape(-1), t["b"]])


def between_trees(a):
    product = lambda t: tree(a @ flat(t))
    return operators.from_function(product, tree(jnp.zeros(5, a.dtype)), psd=True)


@pytest.mark.usefixtures("x64")
def test_solve_logdet_and_shift_are_those_of_the_matrix():
    a, b = jnp.asarray(A), jnp.asarray(cases.normal(1, 5))
    B = operators.materialize(between_trees(a))
    assert B.psd
    np.testing.assert_allclose(flat(B.solve(tree(b))), np.linalg.solve(A, b), rtol=1e-12)
    np.testing.assert_allclose(B.logdet(), np.linalg.slogdet(A)[1], rtol=1e-12)
    C = B.shift(0.5)
    np.testing.assert_allclose(
        flat(C.solve(tree(b))), np.linalg.solve(A + 0.5 * np.eye(5), b), rtol=1e-12
    )
    np.testing.assert_allclose(C.logdet(), np.linalg.slogdet(A + 0.5 * np.eye(5))[1], rtol=1e-12)
    np.testing.assert_allclose(B.block("b").dense(), A[2:, 2:], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_it_compiles_once_and_its_solution_has_the_derivative_of_the_inverse():
    traces = []

    @jax.jit
    def value(a):
        traces.append(None)
        return operators.materialize(between_trees(a)).solve(tree(jnp.ones(5)))["b"].sum()

    g = jax.grad(value)(jnp.asarray(A))
    value(2 * jnp.asarray(A))
    inverse = np.linalg.inv(A)
    expected = -np.outer(inverse @ np.r_[0, 0, 1, 1, 1], inverse @ np.ones(5))
    np.testing.assert_allclose(g + g.T, expected + expected.T, atol=1e-12)
    assert len(traces) == 1


def test_a_matrix_too_large_is_refused_before_it_is_made():
    wide = operators.from_function(lambda v: v, jnp.zeros(1000), symmetric=True)
    with pytest.raises(ValueError, match="needs 4,000,000 bytes"):
        operators.materialize(wide, max_bytes=10**6)
