"""Divided differences against closed forms, at ties, beside them and far apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl.linalg import _divided_differences as _divided

POINTS = [-1.0, -1e-9, 0.0, 1e-9, 0.3, 0.3 + 1e-7, 0.3 + 1e-3, 0.3, 2.0]


@pytest.mark.usefixtures("x64")
def test_first_differences_of_the_exponential_are_the_closed_form_everywhere():
    x = np.asarray(POINTS)
    a, b = x[:, None], x[None]
    half = (a - b) / 2
    sinhc = np.where(half == 0, 1, np.sinh(half) / np.where(half == 0, 1, half))
    np.testing.assert_allclose(
        _divided.first(jnp.exp, jnp.asarray(x)), np.exp((a + b) / 2) * sinhc, rtol=1e-11
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("x64")
def test_second_differences_of_a_cube_are_the_sum_of_the_points(dtype):
    x = np.asarray(POINTS, dtype)
    true = x[:, None, None] + x[None, :, None] + x[None, None]
    found = _divided.second(lambda t: t**3, jnp.asarray(x))
    np.testing.assert_allclose(found, true, atol={"float32": 1e-4, "float64": 1e-9}[dtype])


def test_a_kink_between_two_points_is_not_smoothed_away():
    found = _divided.first(jax.nn.relu, jnp.asarray([-1.0, 1.0]))
    np.testing.assert_allclose(found, [[0, 0.5], [0.5, 1]], atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_function_is_differentiated_in_what_it_carries_also_where_it_vanishes():
    x = jnp.asarray(POINTS)
    carried = jax.tree_util.Partial(lambda t, w: t[0] * jnp.exp(w) + t[1] * jnp.sin(9 * w))
    for t in (jnp.zeros(2), jnp.asarray([0.4, -2.0])):
        f = jax.tree_util.Partial(carried.func, t)
        for i, part in enumerate((jnp.exp, lambda w: jnp.sin(9 * w))):
            df = jax.tree.map(lambda leaf, i=i: jnp.eye(2)[i], f)
            found = jax.jit(_divided.first_along)(f, df, x)
            np.testing.assert_allclose(found, _divided.first(part, x), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_second_differences_from_a_tie_near_zero_to_a_far_point_are_exact():
    found = _divided.second(jnp.exp, jnp.asarray([-1e-16, 1e-17, 4.0]))
    np.testing.assert_allclose(found[0, 1, 2], (np.exp(4) - 5) / 16, rtol=1e-12)
