"""Hutch++ and XTrace against their definitions, one projector after the other in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import operators
from funcdl.operators import hutch_pp, xtrace

KEY = jax.random.key(2)
N, M = 30, 6
MATRIX = cases.symmetric(0.8 ** np.arange(N)) + 0.05 * cases.normal(3, N, N)  # not symmetric
BOTH = pytest.mark.parametrize("estimate", [hutch_pp, xtrace])


def operator(a, dtype=jnp.float32):
    return operators.from_dense(jnp.asarray(a, dtype))


def basis(a, probes):
    return np.linalg.qr(a @ probes.T)[0]


def left_out(a, probes, i, keep):
    """The symmetric matrix whose product with A is the estimate of probe i from the others."""
    q = basis(a, probes[[j for j in keep if j != i]])
    w = probes[i] - q @ (q.T @ probes[i])
    w = w * np.sqrt((N - q.shape[1]) / (w @ w))
    return q @ q.T + np.outer(w, w)


@pytest.mark.usefixtures("x64")
def test_xtrace_is_the_mean_over_the_probes_left_out_and_knows_their_covariance():
    probes = np.asarray(jax.random.normal(KEY, (M, N)))
    every = np.stack([left_out(MATRIX, probes, i, range(M)) for i in range(M)])
    alone = np.einsum("kij,ij->k", every, MATRIX)
    change = np.zeros((M, M))
    for i in range(M):
        for j in set(range(M)) - {i}:
            without = left_out(MATRIX, probes, i, [k for k in range(M) if k != j])
            change[i, j] = alone[i] - (without * MATRIX).sum()
    covariance = (change * change.T).sum() / (M * (M - 1))
    found = xtrace(operator(MATRIX, jnp.float64), key=KEY, probes=M)
    np.testing.assert_allclose(found.value, alone.mean(), rtol=1e-12)
    stderr = np.sqrt(alone.var(ddof=1) / M + max(covariance, 0))
    np.testing.assert_allclose(found.stderr, stderr, rtol=1e-10)
    assert found.matvecs == 2 * M
    gradient = jax.grad(lambda a: xtrace(operators.from_dense(a), key=KEY, probes=M).value)(MATRIX)
    np.testing.assert_allclose(gradient, every.mean(0), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_hutch_pp_sums_the_range_and_estimates_the_rest():
    probes, beside = (np.asarray(jax.random.normal(key, (M, N))) for key in jax.random.split(KEY))
    q = basis(MATRIX, probes)
    g = beside - beside @ q @ q.T
    forms = g @ MATRIX @ g.T
    found = hutch_pp(operator(MATRIX, jnp.float64), key=KEY, probes=M)
    np.testing.assert_allclose(found.value, np.trace(q.T @ MATRIX @ q) + forms.trace() / M)
    pairs = (forms + forms.T)[np.triu_indices(M, 1)] / 2
    np.testing.assert_allclose(found.stderr, np.sqrt(2 * (pairs**2).mean() / M), rtol=1e-10)
    assert found.matvecs == 3 * M
    gradient = jax.grad(lambda a: hutch_pp(operators.from_dense(a), key=KEY, probes=M).value)(
        MATRIX
    )
    np.testing.assert_allclose(gradient, q @ q.T + g.T @ g / M, atol=1e-12)


@BOTH
@pytest.mark.usefixtures("x64")
def test_second_derivatives_hold_the_basis_in_every_mode(estimate):
    """The trace of a² has ``tr(2 d e)`` for its own; here they are those of the same weights."""
    d, e = (jnp.asarray(cases.normal(s, N, N)) for s in (5, 6))
    gradient = jax.grad(lambda b: estimate(operators.from_dense(b), key=KEY, probes=M).value)
    weights = gradient(MATRIX @ MATRIX)

    def f(s, t):
        a = MATRIX + s * d + t * e
        return estimate(operators.from_dense(a @ a), key=KEY, probes=M).value

    expected = (weights * (d @ e + e @ d)).sum()
    modes = jax.jacfwd, jax.jacrev
    for outer in modes:
        for inner in modes:
            got = jax.jit(outer(inner(f, 0), 1))(0.0, 0.0)
            np.testing.assert_allclose(got, expected, rtol=1e-9)


@BOTH
@pytest.mark.parametrize(("rank", "scale"), [(1, 1.0), (M - 1, 1e-25), (M - 1, 1.0), (3, 1e25)])
def test_low_rank_is_exact_at_any_scale_and_says_so(estimate, rank, scale):
    values = np.r_[np.arange(1.0, rank + 1), np.zeros(N - rank)]
    found = estimate(operator(scale * cases.symmetric(values)), key=KEY, probes=M)
    np.testing.assert_allclose(found.value / scale, values.sum(), rtol=1e-5)
    assert found.stderr <= 1e-5 * found.value


@BOTH
def test_of_zero_all_is_zero(estimate):
    f = jax.jit(jax.value_and_grad(lambda a: sum(estimate(operator(a), key=KEY, probes=2)[:2])))
    value, gradient = f(jnp.zeros((5, 5)))
    assert value == 0
    assert jnp.isfinite(gradient).all()


@BOTH
def test_as_many_probes_as_dimensions_leave_nothing_to_estimate_of_the_range(estimate):
    found = estimate(operator(MATRIX), key=KEY, probes=N)
    assert abs(found.value - MATRIX.trace()) <= 4 * found.stderr + 1e-4


@BOTH
def test_a_decaying_spectrum_is_told_better_than_by_hutchinson(estimate):
    values = 0.7 ** np.arange(N)
    A = operator(cases.symmetric(values))
    products = estimate(A, key=KEY, probes=10).matvecs

    def errors(f):
        keys = jax.random.split(KEY, 50)
        return np.sqrt(np.mean((jax.vmap(f)(keys) - values.sum()) ** 2))

    plain = errors(lambda key: operators.trace(A, key=key, probes=products).value)
    reduced = errors(lambda key: estimate(A, key=key, probes=10).value)
    assert reduced < plain / 5


@pytest.mark.oracle
@pytest.mark.usefixtures("x64")
def test_matfree_has_the_same_xtrace():
    from matfree import stochtrace

    a = jnp.asarray(MATRIX)
    mean = stochtrace.estimator_leave_one_out(
        stochtrace.leave_one_out_xtrace(), sampler=lambda key: jax.random.normal(key, (M, N))
    )
    with jax.numpy_rank_promotion("allow"):
        expected = mean(lambda v: a @ v, KEY)
    np.testing.assert_allclose(xtrace(operator(a, a.dtype), key=KEY, probes=M).value, expected)
