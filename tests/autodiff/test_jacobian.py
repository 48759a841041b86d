"""Jacobians against those of jax, which holds all columns at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import cases
from funcdl.autodiff import jacobian


def tall(x, scale=1.0):
    return {"u": jnp.sin(x["a"])[:, None] * x["b"][None] * scale, "v": x["b"].sum() * x["a"]}


def wide(x, scale=1.0):
    return (jnp.tanh(x["a"]).sum() * x["b"] * scale).sum()


def point(dtype=None):
    return cases.cast({"a": cases.normal(0, 3), "b": cases.normal(1, 2)}, dtype)


@pytest.mark.parametrize("f", [tall, wide])
@pytest.mark.parametrize("chunk", [None, 2, 7])
@pytest.mark.usefixtures("x64")
def test_forward_and_reverse_give_the_blocks_of_jax_in_any_chunks(f, chunk):
    x = point()
    got, expected = jacobian(f, chunk=chunk)(x, 0.5), jax.jacfwd(f)(x, 0.5)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_leaves_that_are_no_floats_are_carried_along():
    key, count = jax.random.key(0), jnp.arange(2)
    x = {**point(), "n": count, "on": True, "power": 2, "key": key}

    def f(x):
        assert x["on"] is True
        noise = jax.random.normal(x["key"])
        return x["a"] ** x["power"] * x["b"][x["n"][1]] + 0 * noise

    got = jacobian(f)(x)
    np.testing.assert_allclose(got["a"], np.diag(2 * x["a"] * x["b"][1]))
    assert got["n"] is count
    assert got["key"] is key
    assert (got["on"], got["power"]) == (True, 2)


def test_leaves_keep_their_dtypes():
    x = {"a": jnp.ones(2), "b": jnp.ones(3, jnp.bfloat16)}
    got = jacobian(lambda x: x["a"].sum() * x["b"].sum())(x)
    assert {name: leaf.dtype for name, leaf in got.items()} == {
        name: leaf.dtype for name, leaf in x.items()
    }


@pytest.mark.parametrize("f", [lambda x: jnp.sin(x) * x[0], lambda x: x[0] ** 2 * jnp.sin(x[1])])
@pytest.mark.usefixtures("x64")
def test_it_is_differentiable_to_second_order_mapped_and_compiled(f):
    derivative, x = jax.jit(jacobian(f)), jnp.asarray(cases.normal(0, 2))
    cases.check_second(derivative, (x,))
    each = jax.vmap(derivative)(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(each[1], derivative(2 * x), rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_it_is_differentiable_in_what_f_closes_over():
    def total(s):
        return (jacobian(lambda x: jnp.sin(s * x))(jnp.ones(2)) ** 2).sum()

    check_grads(jax.jit(total), (0.7,), order=1, modes=("fwd", "rev"))


def test_a_function_is_traced_once_for_all_calls():
    traces = []

    def f(x, scale, power):
        traces.append(0)
        return scale * x**power

    derivative = jacobian(f)
    first = derivative(jnp.ones(2), 1.0, 3)
    before = len(traces)
    again = jacobian(f)(jnp.ones(2), 2.0, 3)
    assert len(traces) == before
    np.testing.assert_allclose(again, 2 * first)
