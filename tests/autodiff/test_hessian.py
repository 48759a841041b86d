"""Dense Hessians against those of jax and of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl.autodiff import hessian, hessian_matrix


@pytest.mark.parametrize("name", ["no data", "classification"])
@pytest.mark.usefixtures("x64")
def test_the_matrix_is_the_dense_hessian(name):
    problem = cases.LOSSES[name].cast(jnp.float64)
    args = () if problem.data is None else (problem.data,)
    expected = cases.dense_hessian(name)
    matrix = hessian_matrix(problem.loss)(problem.params, *args)
    np.testing.assert_allclose(matrix, expected, atol=1e-13 * np.abs(expected).max())


@pytest.mark.usefixtures("x64")
def test_the_blocks_are_those_of_jax():
    problem = cases.LOSSES["no data"].cast(jnp.float64)
    blocks = hessian(problem.loss, chunk=3)(problem.params)
    reference = jax.jit(jax.hessian(problem.loss))(problem.params)
    assert jax.tree.structure(blocks) == jax.tree.structure(reference)
    for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(reference)):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-12)


def test_in_single_precision_the_matrix_is_symmetric_to_the_last_bit():
    problem = cases.LOSSES["classification"].cast(jnp.float32)
    matrix = np.asarray(hessian_matrix(problem.loss)(problem.params, problem.data))
    expected = cases.dense_hessian("classification")
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix, expected, atol=1e-6 * np.abs(expected).max())


def cubic(x, scale=1.0):
    return scale * (jnp.sin(x["a"]) * x["b"] ** x["power"]).sum()


def point():
    return {"a": jnp.asarray(cases.normal(0, 2)), "b": jnp.asarray(1.5)}


@pytest.mark.usefixtures("x64")
def test_leaves_that_are_no_floats_are_carried_along():
    x = {**point(), "power": 3}
    blocks = hessian(cubic)(x)
    assert blocks["power"] == 3
    assert blocks["a"]["power"] == 3
    np.testing.assert_allclose(blocks["b"]["b"], 6 * x["b"] * jnp.sin(x["a"]).sum())
    matrix = hessian_matrix(cubic)(x)
    np.testing.assert_allclose(matrix[:2, 2], blocks["a"]["b"])


@pytest.mark.usefixtures("x64")
def test_it_is_differentiable_to_second_order_mapped_and_compiled():
    x = jnp.asarray(cases.normal(0, 2))
    matrix = jax.jit(hessian_matrix(lambda x: jnp.sin(x[0]) * x[1] ** 3))
    cases.check_second(matrix, (x,))
    each = jax.vmap(matrix)(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(each[1], matrix(2 * x), rtol=1e-13)


def test_a_function_is_traced_once_for_all_calls():
    traces = []

    def f(x, scale):
        traces.append(0)
        return scale * (x**3).sum()

    first = hessian_matrix(f)(jnp.ones(2), 1.0)
    before = len(traces)
    np.testing.assert_allclose(hessian_matrix(f)(jnp.ones(2), 2.0), 2 * first)
    assert len(traces) == before


def test_the_memory_is_that_of_the_result_and_not_of_all_passes():
    def f(x, w):
        return (jnp.tanh(w @ jnp.sin(x)) ** 4).sum()

    x, w = jnp.ones(64), jnp.ones((4096, 64))
    ours, theirs = (
        jax.jit(h).lower(x, w).compile().memory_analysis().temp_size_in_bytes
        for h in (hessian_matrix(f), jax.hessian(f))
    )
    assert ours < theirs / 3, (ours, theirs)


def test_the_raveled_order_is_that_of_jax():
    x = {"b": jnp.arange(3.0), "a": jnp.ones((2, 1)), "n": 2}
    matrix = hessian_matrix(lambda x: (x["b"] ** 2).sum() + 3 * (x["a"] ** 2).sum())(x)
    flat = ravel_pytree({"b": 2 * jnp.ones(3), "a": 6 * jnp.ones((2, 1))})[0]
    np.testing.assert_allclose(jnp.diag(matrix), flat)
