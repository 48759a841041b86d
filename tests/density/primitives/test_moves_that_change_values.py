"""Structural operations that round, fill in or look up: their slopes, bounds and zeros are true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density
from funcdl.density._primitives.bounds import intervals
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import program

X = np.array([0.7, -1.3, 2.2, 0.4])
OUT = np.array([5, 1, 9, 0], "int32")  # two of these positions lie outside of an array of 4


def filled(x, value):
    return jnp.asarray(x).at[OUT].get(mode="fill", fill_value=value)


MAPS = {
    **{f"fill {v}": lambda x, v=v: x + filled(x, v) for v in (4.0, 1.0, 0.0, -2.0)},
    "fill of an exponential": lambda x: x * filled(jnp.exp(x), 3.0),
    "fill of a factor": lambda x: x * filled(jnp.exp(np.arange(4.0)), 0.5),
    "a fraction is not zero": lambda x: x * filled(np.ones(4), 0.25),
    "pad with a number": lambda x: x * jnp.pad(jnp.exp(x[:3]), (1, 0), constant_values=4.0),
    "scatter that drops": lambda x: x + x.at[OUT].set(2.0, mode="drop") / 2,
    "scatter-add that clips": lambda x: x.at[np.array([1, 9])].add(jnp.sin(x[:2]), mode="clip"),
    "slice that clamps": lambda x: x + jax.lax.dynamic_slice(
        jnp.concatenate([jnp.sinh(x), x]), (7,), (4,)),
    "index from x": lambda x: jax.lax.dynamic_slice(
        jnp.concatenate([x, 2 * x]), (x[0].astype(jnp.uint32) + 1,), (4,)),
    "gather at an index from x": lambda x: jnp.stack([x, 3 * x])[(x > 0).astype(int), np.arange(4)],
    "update at an index from x": lambda x: jax.lax.dynamic_update_slice(
        x, 2 * x[:1], (x[2].astype(int),)),
    # jax rounds derivatives along x to 16 bits too, so only the factor is rounded here
    "rounded to 16 bits": lambda x: x * jnp.exp(jnp.roll(jax.lax.stop_gradient(x), 1) * 3).astype(
        jnp.bfloat16).astype(x.dtype),
    "rounded to 3 bits": lambda x: x * jax.lax.reduce_precision(
        jnp.exp(3 * jax.lax.stop_gradient(x)), 8, 3),
    "through integers": lambda x: x * (1 + jnp.exp(x).astype(jnp.int8).astype(x.dtype)),
    "barrier": lambda x: jnp.multiply(*jax.lax.optimization_barrier((jnp.exp(x), x))),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_log_det_is_that_of_the_dense_jacobian(name, dtype, x64):
    f, x = MAPS[name], jnp.asarray(X, dtype)
    found = jax.jit(density.log_abs_det_jacobian(f))(x)
    expected = np.linalg.slogdet(jax.jacfwd(f)(x))[1]
    np.testing.assert_allclose(found, expected, rtol=4e-6 if dtype == "float32" else 1e-12)


def test_a_logarithm_is_not_rounded_with_its_value():
    s = jnp.linspace(-9.0, -3.0, 400)
    f = lambda x: x * jnp.exp(s).astype(jnp.bfloat16).astype(jnp.float32)
    expected = np.log(np.diag(jax.jacfwd(f)(jnp.ones(400))).astype(float)).sum()
    np.testing.assert_allclose(density.log_abs_det_jacobian(f)(jnp.ones(400)), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_slopes_of_narrow_floats_have_the_digits_of_float32(dtype, x64):
    x = jnp.linspace(-3, 3, 64).astype(dtype)
    for f in (jnp.tanh, jax.nn.sigmoid, lambda x: x * jnp.exp(2 * x), lambda x: x**3, jnp.sinh):
        found = density.log_abs_det_jacobian(f)(x)
        expected = density.log_abs_det_jacobian(f)(x.astype("float64"))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4)


# name -> (function of an array that contains x, whether its bounds may exclude 0)
BOUNDED = {
    "fill": lambda x: filled(jnp.exp(x), -1.0),
    "pad": lambda x: jnp.pad(jnp.exp(x), (1, 0), constant_values=-1.0),
    "second of a barrier": lambda x: jax.lax.optimization_barrier((jnp.exp(x), x))[1],
    "integers": lambda x: (jnp.exp(x) + 300).astype(jnp.int8),
    "rounded": lambda x: jax.lax.reduce_precision(jnp.tanh(x), 5, 2),
    "narrow": lambda x: jnp.tanh(x).astype(jnp.float16),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_contain_every_value(name):
    f, points = BOUNDED[name], np.linspace(-4, 4, 4).astype("float32")
    whole = program(jax.make_jaxpr(f)(points), [0], [0])
    low, high = intervals(whole, StaticValues(whole))(whole.outputs[0])
    values = np.asarray(f(points), float)
    assert (low <= values).all()
    assert (values <= high).all()


def test_a_square_after_a_fill_is_not_proved_injective():
    f = lambda x: filled(jnp.exp(x), -1.0)[np.array([1, 3, 1, 3])] ** 2 + x
    assert density.inspect(f, X).injective != "proved"
