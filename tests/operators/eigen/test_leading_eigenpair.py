"""One eigenpair from a start that is nearly one, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import operators
from funcdl.operators import leading_eigenpair

RNG = np.random.default_rng(0)


def operator(a, dtype=jnp.float32):
    return operators.from_dense(jnp.asarray(a, dtype), symmetric=True)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("name", ["random", "multiple", "low rank", "identity", "1x1", "2x2"])
def test_in_as_many_steps_as_numbers_it_is_exact_also_where_the_space_is_exhausted(name, which):
    a = cases.symmetric(cases.SPECTRA[name])
    values = np.linalg.eigvalsh(a)
    rank = {"LM": -np.abs(values), "LA": -values, "SA": values}[which]
    start = jnp.asarray(RNG.normal(size=len(a)))
    pair = leading_eigenpair(operator(a, jnp.float64), start, steps=40, which=which)
    np.testing.assert_allclose(pair.values[0], values[np.argmin(rank)], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(pair.vectors), 1, rtol=1e-12)
    assert pair.residuals[0] < 1e-11
    assert pair.converged.all()
    assert pair.matvecs == len(a)


def test_few_steps_give_the_best_of_the_krylov_space_and_its_true_residual():
    a = np.float32(cases.symmetric(np.linspace(-1, 1, 30)))
    start = np.float32(RNG.normal(size=30))
    pair = leading_eigenpair(operator(a), jnp.asarray(start), steps=3)
    wide, krylov = np.float64(a), [np.float64(start)]
    for _ in range(2):
        krylov.append(wide @ krylov[-1])
    q, _ = np.linalg.qr(np.stack(krylov, axis=1))
    np.testing.assert_allclose(pair.values[0], np.linalg.eigvalsh(q.T @ wide @ q)[-1], rtol=1e-5)
    v = np.float64(pair.vectors[0])
    np.testing.assert_allclose(
        pair.residuals[0], np.linalg.norm(wide @ v - np.float64(pair.values[0]) * v), rtol=1e-4
    )
    assert not pair.converged.any()


def test_it_follows_an_eigenvalue_of_an_operator_that_changes_without_compiling_again():
    a, b = (cases.symmetric(np.r_[np.linspace(-1, 1, 29), 3], seed) for seed in (0, 1))
    traces = []

    @jax.jit
    def follow(t, v):
        traces.append(None)
        return leading_eigenpair(operator(a) * (1 - t) + operator(b) * t, v, steps=3)

    v, found, true = jnp.asarray(RNG.normal(size=30), jnp.float32), [], []
    for t in np.linspace(0, 0.3, 20):
        pair = follow(jnp.float32(t), v)
        v = pair.vectors[0]
        found.append(pair.values[0])
        true.append(np.linalg.eigvalsh((1 - t) * a + t * b)[-1])
    np.testing.assert_allclose(found[3:], true[3:], rtol=1e-3)
    assert len(traces) == 1


@pytest.mark.usefixtures("x64")
def test_trees_lanes_and_derivatives():
    a = jnp.asarray(cases.symmetric([1.0, 2.0, -5.0, 4.0]))
    split = lambda v: {"a": v[..., :1], "b": v[..., 1:]}

    def value(scale, v):
        product = lambda tree: split(a @ jnp.concatenate([tree["a"], tree["b"]]) * scale)
        A = operators.from_function(product, split(v), symmetric=True)
        return leading_eigenpair(A, split(v), steps=4).values[0]

    scales, starts = jnp.asarray([1.0, -1.0]), jnp.asarray(RNG.normal(size=(2, 4)))
    both = jax.jit(jax.vmap(jax.value_and_grad(value)))
    values, slopes = both(scales, starts)
    np.testing.assert_allclose(values, [4, 5], rtol=1e-12)
    np.testing.assert_allclose(slopes, [4, -5], rtol=1e-10)
