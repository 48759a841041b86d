"""Sparse derivatives against dense ones, where asdex is installed and imports."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.autodiff import hessian_matrix, jacobian, sparse_hessian, sparse_jacobian


@pytest.fixture
def asdex():
    return pytest.importorskip("asdex", exc_type=ImportError)


def rosenbrock(x, scale=1.0):
    return (scale * (1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


@pytest.mark.usefixtures("asdex", "x64")
def test_the_hessian_is_the_dense_one_and_sparse():
    x = jnp.asarray(cases.normal(0, 30))
    found = sparse_hessian(rosenbrock)(x, 2.0)
    assert found.nse <= 3 * 30
    np.testing.assert_allclose(found.todense(), hessian_matrix(rosenbrock)(x, 2.0), rtol=1e-13)


@pytest.mark.usefixtures("asdex", "x64")
def test_the_jacobian_of_trees_is_the_dense_one():
    x = {"a": jnp.asarray(cases.normal(0, 4)), "n": 2, "b": jnp.asarray(1.5)}

    def f(x):
        return {"u": jnp.sin(x["a"]) * x["n"], "v": x["b"] ** 2}

    found = sparse_jacobian(f)(x)
    dense = jacobian(f)(x)
    assert found.nse == 5
    np.testing.assert_allclose(found.todense()[:4, :4], dense["u"]["a"], rtol=1e-13)
    np.testing.assert_allclose(found.todense()[4, 4], dense["v"]["b"], rtol=1e-13)


@pytest.mark.usefixtures("asdex", "x64")
def test_it_is_compiled_mapped_and_differentiable():
    x = jnp.asarray(cases.normal(0, 5))
    entries = lambda x: sparse_hessian(rosenbrock)(x).data
    np.testing.assert_allclose(jax.jit(entries)(x), entries(x), rtol=1e-13)
    each = jax.vmap(entries)(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(each[1], entries(2 * x), rtol=1e-13)
    slope = jax.jacrev(lambda x: sparse_hessian(rosenbrock)(x).todense())(x)
    np.testing.assert_allclose(slope, jax.jacrev(hessian_matrix(rosenbrock))(x), atol=1e-10)


@pytest.mark.usefixtures("asdex")
def test_an_array_of_integers_is_closed_over():
    indices = jnp.asarray([2, 0])
    found = sparse_jacobian(lambda x: x[indices] ** 2)(jnp.arange(3.0))
    assert found.todense().tolist() == [[0.0, 0.0, 4.0], [0.0, 0.0, 0.0]]
    with pytest.raises(TypeError, match=r"dtype int32; expected floats: let f close over it"):
        sparse_jacobian(lambda x, indices: x[indices])(jnp.arange(3.0), indices)


@pytest.mark.usefixtures("asdex")
def test_the_pattern_is_found_once():
    traces = []

    def f(x, scale):
        traces.append(0)
        return scale * (x**3).sum()

    first = sparse_hessian(f)(jnp.ones(3), 1.0)
    before = len(traces)
    np.testing.assert_allclose(sparse_hessian(f)(jnp.ones(3), 2.0).data, 2 * first.data)
    assert len(traces) <= before + 1  # the shape is read


def test_without_asdex_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    for transform in (sparse_jacobian, sparse_hessian):
        with pytest.raises(ImportError, match=r"pip install 'funcdl\[sparse\]'"):
            transform(rosenbrock)
