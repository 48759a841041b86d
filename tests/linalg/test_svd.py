"""Decompositions reconstruct, order, and say how far apart their values are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import linalg

LANES = jnp.asarray(
    np.stack([cases.normal(0, 3, 3), np.eye(3), np.zeros((3, 3)), np.ones((3, 3))]), jnp.float32
)
ALL = {
    "svd": lambda a: linalg.svd(a)[:3],
    "eigh": lambda a: linalg.eigh(a)[:2],
    "singular_subspace": lambda a: linalg.singular_subspace(a, 2)[:3],
    "eigenspace": lambda a: linalg.eigenspace(a, 2)[:2],
    "projector": lambda a: linalg.projector(a, 1),
    "low_rank_approximation": lambda a: linalg.low_rank_approximation(a, 1),
    "spectral_sum": lambda a: linalg.spectral_sum(lambda s: jnp.log1p(s**2), a),
    "nuclear_norm": linalg.nuclear_norm,
    "spectral_norm": linalg.spectral_norm,
    "schatten_norm": lambda a: linalg.schatten_norm(a, 3),
    "frobenius_norm": linalg.frobenius_norm,
    "cond": linalg.cond,
    "det": linalg.det,
    "pinv": linalg.pinv,
    "polar": linalg.polar,
    "matrix_function": lambda a: linalg.matrix_function(jnp.tanh, a),
    "orth": lambda a: linalg.orth(a).basis,
}


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_factors_reconstruct_the_matrix_and_are_orthonormal(shape):
    a = cases.normal(1, *shape)
    u, s, v, gap = linalg.svd(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose((u * s[None]) @ v.T, a, atol=2e-6)
    for q in (u, v):
        np.testing.assert_allclose(q.T @ q, np.eye(min(shape)), atol=1e-6)
    true = np.linalg.svd(a, compute_uv=False)
    np.testing.assert_allclose(s, true, rtol=1e-5)
    neighbors = true[:-1] - true[1:] if shape[0] == shape[1] else -np.diff(true, append=0)
    np.testing.assert_allclose(gap, neighbors.min() / true[0], atol=1e-6)


def test_eigenpairs_reconstruct_the_matrix_in_descending_order():
    a = cases.symmetric([2.0, -1.0, 4.0, 0.5])
    w, v, gap = linalg.eigh(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(w, [4, 2, 0.5, -1], atol=1e-5)
    np.testing.assert_allclose((v * w[None]) @ v.T, a, atol=1e-5)
    np.testing.assert_allclose(gap, 1.5 / 4, atol=1e-5)


@pytest.mark.parametrize("c", [1e-20, 1e20])
def test_values_are_right_at_the_ends_of_float32(c):
    a = cases.normal(2, 3, 3)
    x = jnp.asarray(a * c, jnp.float32)
    s = np.linalg.svd(a, compute_uv=False)
    for f, true in (
        (linalg.frobenius_norm, np.linalg.norm(a)),
        (linalg.nuclear_norm, s.sum()),
        (linalg.spectral_norm, s[0]),
        (lambda x: linalg.schatten_norm(x, 3), (s**3).sum() ** (1 / 3)),
    ):
        value, slope = jax.value_and_grad(f)(x)
        np.testing.assert_allclose(value / c, true, rtol=1e-5)
        expected = jax.grad(f)(jnp.asarray(a, jnp.float32))
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)
    value, slope = jax.value_and_grad(linalg.cond)(x)
    np.testing.assert_allclose(value, s[0] / s[-1], rtol=1e-4)
    expected = jax.grad(linalg.cond)(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(slope * c, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(linalg.pinv(x) * c, np.linalg.pinv(a), rtol=1e-4)
    np.testing.assert_allclose(linalg.svd(x).s / c, s, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    cases.often(
        ALL,
        (
            "svd",
            "eigh",
            "singular_subspace",
            "low_rank_approximation",
            "spectral_sum",
            "det",
            "pinv",
        ),
    ),
)
def test_no_lane_of_a_batch_is_contaminated(name):
    """Values, gradients and products with Hessians beside degenerate matrices, and among equals."""
    f = ALL[name]

    def scalar(a):
        return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(f(a)))

    def everything(a):
        slope, bend = jax.jvp(jax.grad(scalar), (a,), (LANES[0],))
        return f(a), slope, bend

    many = jax.jit(jax.vmap(everything))
    batch, equals = many(LANES), many(jnp.stack([LANES[0]] * len(LANES)))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(batch[1:]))
    for one, x in zip(jax.tree.leaves(equals), jax.tree.leaves(batch)):
        np.testing.assert_allclose(one[0], x[0], rtol=1e-5, atol=1e-6)


SMOOTH = cases.normal(3, 4, 3)
CHECKED = {
    "singular values": lambda a: linalg.svd(a).s,
    "singular vectors": lambda a: jnp.abs(linalg.svd(a).u) + jnp.abs(linalg.svd(a).v).sum(),
    "eigenvalues": lambda a: linalg.eigh(a @ a.T)[0][:3],
    "core": lambda a: linalg.nuclear_norm(linalg.singular_subspace(a, 2).core),
    "cond": linalg.cond,
    "spectral_norm": linalg.spectral_norm,
    "schatten_norm": lambda a: linalg.schatten_norm(a, 3),
    "det": lambda a: linalg.det(a.T @ a),
    "sqrtm": lambda a: linalg.sqrtm(a.T @ a),
    "matrix_function": lambda a: linalg.matrix_function(jnp.log, a.T @ a),
    "norm": lambda a: linalg.norm(a[0], 1.5) + linalg.norm(a[1], 0.5) + linalg.norm(a[2]),
    "one_norm": linalg.one_norm,
    "pinv": linalg.pinv,
}


@pytest.mark.parametrize("name", cases.often(CHECKED, {*CHECKED} - {"core", "matrix_function"}))
@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_differences(name):
    cases.check_second(CHECKED[name], (SMOOTH,))


def test_numbers_that_a_function_carries_have_derivatives():
    a = jnp.diag(jnp.asarray([1.0, 2.0]))
    by_sum = lambda p, a: linalg.spectral_sum(lambda s: s**p, a)
    by_matrix = lambda p, a: jnp.trace(linalg.matrix_function(lambda s: s**p, a))
    mixed = lambda p, a: jax.grad(by_sum, 1)(p, a)[1, 1]
    found = jax.jit(lambda *args: [jax.grad(f)(*args) for f in (by_sum, by_matrix, mixed)])(3.0, a)
    np.testing.assert_allclose(found[:2], 8 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(found[2], 4 + 12 * np.log(2), rtol=1e-5)


def test_a_vector_inside_a_tie_has_no_derivative_and_says_so():
    found = linalg.svd(jnp.eye(3))
    assert found.gap == 0
    assert linalg.singular_subspace(jnp.diag(jnp.asarray([2.0, 2.0, 1.0])), 1).gap == 0
    assert jnp.isfinite(jax.jacobian(lambda a: linalg.svd(a).u)(jnp.eye(3))).all()


def test_the_randomised_decomposition_finds_the_largest_values(key):
    a = jnp.asarray(cases.normal(1, 60, 40) @ np.diag(0.8 ** np.arange(40)), jnp.float32)
    for x in (a, a.T):
        found = jax.jit(lambda x: linalg.randomized_svd(key, x, 5))(x)
        true = np.linalg.svd(x, compute_uv=False)[:5]
        np.testing.assert_allclose(found.s, true, rtol=1e-4)
        np.testing.assert_allclose(x @ found.v, found.u * found.s[None], atol=2e-3)
    with pytest.raises(NotImplementedError, match="differentiate svd"):
        jax.grad(lambda x: linalg.randomized_svd(key, x, 5).s.sum())(a)
