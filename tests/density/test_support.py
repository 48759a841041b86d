"""Outside of the image of a map its density is 0, with a gradient of 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density


def normal(x):
    return -0.5 * (x**2).sum()


def over_layers(x):
    return jax.lax.scan(lambda x, _: (jax.nn.softplus(x), None), x, None, length=2)[0]


def over_slices(x):
    return jax.lax.scan(lambda c, x: (c + x, jnp.exp(x) + jnp.exp(2 * x)), 0.0, x)[1]


def branches(x):
    return jax.lax.cond(jnp.cos(1.0) > 0, jax.nn.softplus, jnp.exp, x)


def counted_loop(x):
    count = jnp.asarray(2) + jnp.isnan(jnp.cos(1.0))
    return jax.lax.fori_loop(0, count, lambda _, x: jax.nn.softplus(x), x)


# name -> (map, a point of its image, a point outside)
MAPS = {
    "exp": (jnp.exp, [0.5, 1.5], [-1.0, 2.0]),
    "softplus": (jax.nn.softplus, [0.5, 1.5], [-1.0, 2.0]),
    "log sigmoid": (jax.nn.log_sigmoid, [-0.5, -1.5], [1.0, -2.0]),
    "a scan over layers": (over_layers, [0.9, 1.5], [-1.0, 2.0]),
    "a scan over slices": (over_slices, [0.9, 1.5], [-1.0, 2.0]),
    "a branch": (branches, [0.5, 1.5], [-1.0, 2.0]),
    "a counted loop": (counted_loop, [0.9, 1.5], [-1.0, 2.0]),
    "sigmoid": (jax.nn.sigmoid, [0.5, 0.1], [0.5, 1.5]),
    "sum of exponentials": (lambda x: jnp.exp(x) + jnp.exp(2 * x), [0.5, 1.5], [-1.0, 2.0]),
    "cumulative": (lambda x: jnp.cumsum(jax.nn.softplus(x)), [0.5, 1.5], [2.0, 1.0]),
    "shifted": (lambda x: 3 + 2 * jnp.exp(x), [4.0, 9.0], [2.0, 9.0]),
    "power": (lambda x: jnp.exp(x) ** 2 + 1, [4.0, 9.0], [4.0, 0.5]),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_density_and_its_gradient_outside_of_the_image(name):
    f, inside, outside = MAPS[name]
    log_q = density.pushforward(normal, f)
    rows = jnp.asarray([inside, outside])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(log_q)))(rows)
    assert np.isfinite(value[0])
    assert value[1] == -np.inf
    np.testing.assert_array_equal(slope[1], 0)
    x = density.inverse(f)(rows[0])
    assert np.isclose(value[0], normal(x) - density.log_abs_det_jacobian(f)(x), rtol=1e-4)
    assert np.isnan(density.inverse(f)(rows[1])).any()
    masked = lambda rows: jnp.where(jnp.array([True, False]), jax.vmap(log_q)(rows), 0).sum()
    assert np.isfinite(jax.jit(jax.grad(masked))(rows)).all()


def test_a_nan_stays_one():
    assert np.isnan(density.pushforward(normal, jnp.exp)(jnp.array([jnp.nan, 1.0])))
