"""The derivative of a fixed point is that of its equation, whatever the iteration did."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from funcdl.stats._fitting.fixed_point import differentiable


class Facts(NamedTuple):
    converged: jax.Array


def step(_, theta, data):
    """Heron's map: its fixed point is the square root of the data."""
    return {"root": (theta["root"] + data / theta["root"]) / 2}


def iterate(static, start, data, control):
    theta = jax.lax.fori_loop(0, 20, lambda _, theta: step(static, theta, data), start)
    return theta, Facts(control)


@partial(jax.jit, static_argnames=("converged", "regular"))
def root(data, start=1.0, converged=True, regular=True):
    solve = differentiable(iterate, step, lambda static, theta: jnp.asarray(regular))
    start = {"root": jnp.asarray(start, data.dtype)}
    return solve(None, start, data, jnp.asarray(converged))[0]["root"]


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_derivatives_of_order_1_and_2_are_those_of_the_square_root(scale):
    data = jnp.float32(3.0 * scale)
    f = partial(root, start=float(jnp.sqrt(data)))
    assert jnp.allclose(jax.grad(f)(data), jax.grad(jnp.sqrt)(data), rtol=1e-5, atol=0)
    second = jax.jacfwd(jax.grad(f))(data)
    assert jnp.allclose(second, jax.grad(jax.grad(jnp.sqrt))(data), rtol=1e-4, atol=0)


def test_the_start_does_not_matter():
    data = jnp.float32(2.0)
    assert jnp.allclose(jax.grad(root)(data, 0.5), jax.grad(root)(data, 7.0), rtol=1e-5)
    assert jax.grad(root, argnums=1)(data, 0.5) == 0


@pytest.mark.parametrize("facts", [{"converged": False}, {"regular": False}])
def test_where_there_is_no_derivative_it_is_nan_and_the_value_stays(facts):
    value, slope = jax.value_and_grad(partial(root, **facts))(jnp.float32(2.0))
    assert jnp.isfinite(value)
    assert jnp.isnan(slope)
