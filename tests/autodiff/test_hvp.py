"""The Hessian times a vector, against ``jax.hessian``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl.autodiff import hvp


@pytest.mark.parametrize("name", ["no data", "regression", "classification"])
@pytest.mark.usefixtures("x64")
def test_the_product_is_that_of_the_dense_hessian(name):
    problem = cases.LOSSES[name].cast(jnp.float64)
    flat, unravel = ravel_pytree(problem.params)
    v = cases.normal(1, *flat.shape)
    args = () if problem.data is None else (problem.data,)
    product = jax.jit(hvp(problem.loss))(problem.params, unravel(jnp.asarray(v)), *args)
    expected = cases.dense_hessian(name) @ v
    np.testing.assert_allclose(
        ravel_pytree(product)[0], expected, atol=1e-12 * np.abs(expected).max()
    )


def test_only_the_first_argument_is_differentiated():
    def f(x, scale, power):
        return (scale * x**power).sum()

    assert hvp(f)(jnp.ones(2), jnp.ones(2), jnp.asarray(3.0), 3).tolist() == [18.0, 18.0]


@pytest.mark.usefixtures("x64")
def test_the_product_is_differentiable_to_second_order():
    f = hvp(lambda x: (jnp.sin(x["a"]) * x["b"]).sum())
    x, v = ({"a": jnp.asarray(cases.normal(s, 2)), "b": jnp.asarray(1.5)} for s in (0, 1))
    cases.check_second(f, (x, v))


def test_it_can_be_mapped_over_directions_and_jitted():
    def f(x):
        return jnp.prod(x)

    x, basis = jnp.asarray([1.0, 2.0, 3.0]), jnp.eye(3)
    np.testing.assert_allclose(jax.jit(jax.vmap(hvp(f), (None, 0)))(x, basis), jax.hessian(f)(x))


def test_errors_name_what_was_wrong():
    with pytest.raises(ValueError, match=r"direction v differs from x at path 'a'.*\(2,\).*\(3,\)"):
        hvp(lambda x: x["a"].sum())({"a": jnp.ones(2)}, {"a": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"f returned shape \(2,\); expected a scalar"):
        hvp(lambda x: x)(jnp.ones(2), jnp.ones(2))
    with pytest.raises(TypeError, match="x has dtype int32; expected a float"):
        hvp(lambda x: x.sum())(jnp.arange(2), jnp.arange(2))
    with pytest.raises(ValueError, match="x has no leaves"):
        hvp(lambda x: 0.0)({}, {})


def test_leaves_that_are_no_floats_are_carried_along():
    x = {"a": jnp.ones(2), "n": jnp.asarray(3), "power": 2, "on": True}

    def f(x):
        return (x["n"] * x["a"] ** (x["power"] + x["on"])).sum()

    product = hvp(f)(x, {**x, "a": jnp.asarray([1.0, 2.0])})
    np.testing.assert_allclose(product["a"], [18.0, 36.0])
    assert {k: product[k] for k in ("n", "power", "on")} == {k: x[k] for k in ("n", "power", "on")}
