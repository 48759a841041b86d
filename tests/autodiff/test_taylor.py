"""Directional derivatives of every order, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.autodiff import hvp, taylor


@pytest.mark.usefixtures("x64")
def test_those_of_the_exponential_are_powers():
    k, x, v = (jnp.asarray(cases.normal(s, 3)) for s in range(3))
    got = jax.jit(lambda x, v: taylor(lambda x: jnp.exp(k @ x))(x, v, 5))(x, v)
    np.testing.assert_allclose(got, jnp.exp(k @ x) * (k @ v) ** jnp.arange(6), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_second_is_the_quadratic_form_of_the_hessian():
    x, v = ({"a": jnp.asarray(cases.normal(s, 2)), "b": jnp.asarray(s + 1.5)} for s in (0, 1))
    f = lambda x, scale: scale * (jnp.sin(x["a"]) * x["b"] ** 3).sum()
    value, slope, bend = taylor(f)(x, v, 2, 0.5)
    product = hvp(f)(x, v, 0.5)
    np.testing.assert_allclose(value, f(x, 0.5))
    np.testing.assert_allclose(slope, jax.jvp(lambda x: f(x, 0.5), (x,), (v,))[1])
    expected = (product["a"] * v["a"]).sum() + product["b"] * v["b"]
    np.testing.assert_allclose(bend, expected, rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_a_polynomial_is_its_own_series():
    def f(x):
        return {"y": x["a"] ** 4, "z": x["a"][0] * jnp.ones(3)}

    x = {"a": jnp.asarray([1.0, 2.0]), "n": jnp.asarray(7)}
    v = {"a": jnp.asarray([0.5, -1.0]), "n": jnp.asarray(0)}
    series = taylor(f)(x, v, 4)
    end = sum(y["y"] * 0.3**k / math.factorial(k) for k, y in enumerate(series))
    np.testing.assert_allclose(end, (x["a"] + 0.3 * v["a"]) ** 4, rtol=1e-13)
    assert [y["z"].tolist() for y in series[2:]] == 3 * [3 * [0.0]]


@pytest.mark.usefixtures("x64")
def test_they_are_differentiable_to_second_order_and_mapped():
    x, v = jnp.asarray(cases.normal(0, 2)), jnp.asarray(cases.normal(1, 2))
    third = jax.jit(lambda x, v: taylor(lambda x: jnp.sin(x[0]) * x[1] ** 3)(x, v, 3)[3])
    cases.check_second(third, (x, v))
    each = jax.vmap(third, (None, 0))(x, jnp.stack([v, 2 * v]))
    np.testing.assert_allclose(each[1], 8 * each[0], rtol=1e-12)


def test_order_zero_is_the_value():
    assert taylor(jnp.sin)(jnp.ones(()), jnp.ones(()), 0) == (jnp.sin(1.0),)
