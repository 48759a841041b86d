"""Loops and branches take their log-determinant inside, and say what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import density
from funcdl.density._analysis import analyze, run
from funcdl.density._control_flow.base import NestedEquation
from funcdl.density._inversion.invert import invert

SCALES = cases.normal(0, 4, 3)


def layer(x, scale):
    return x * jnp.exp(scale) + jnp.tanh(x), None


def over_layers(x):
    return jax.lax.scan(layer, x, SCALES)[0]


def over_slices(x):
    def step(total, number):
        return total + number, number * jnp.exp(jnp.tanh(total))

    return jax.lax.scan(step, 0.0, x)[1]


def counted(x):
    return jax.lax.fori_loop(0, 3, lambda i, x: x + 0.5 * jnp.tanh(x) * i, x)


def branches(x):
    return jax.lax.cond(SCALES[0, 0] > 0, jnp.sinh, lambda x: 2 * x, x)


def switched(x, index):
    return jax.lax.switch(index, [jnp.sinh, lambda x: 3 * x], x)


LOOPS = {"over layers": over_layers, "over slices": over_slices, "counted": counted,
         "branches": branches}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_it_is_one_equation_with_the_log_determinant_of_its_body(name, x64):
    f, x = LOOPS[name], jnp.asarray(cases.normal(1, 3))
    analysis = analyze(jax.make_jaxpr(f)(x), [0], [0])
    assert any(isinstance(plan, NestedEquation) for plan in analysis.plans)
    (y,), log_det = jax.jit(lambda x: run(analysis, [x]))(x)
    np.testing.assert_allclose(y, f(x))
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jax.jacfwd(f)(x))[1], rtol=1e-9)
    (back,), reached = jax.jit(lambda y: invert(analysis, [y], [None]))(y)
    np.testing.assert_allclose(back, x, rtol=1e-9)
    assert reached


@pytest.mark.parametrize("index", [0, 1])
def test_a_branch_that_data_chooses_has_its_own_log_determinant(index, x64):
    x = jnp.asarray(cases.normal(1, 3))
    analysis = analyze(jax.make_jaxpr(switched)(x, 0), [0], [0])
    _, log_det = jax.jit(lambda x, i: run(analysis, [x, i]))(x, index)
    expected = jnp.linalg.slogdet(jax.jacfwd(lambda x: switched(x, index))(x))[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-9)


def test_a_scan_that_mixes_steps_is_not_lifted():
    def mixed(x):
        def step(carry, _):
            x, seen = carry
            return (x + seen, x), None

        return jax.lax.scan(step, (x, jnp.zeros_like(x)), None, length=3)[0][0]

    analysis = analyze(jax.make_jaxpr(mixed)(jnp.ones(3)), [0], [0])
    assert not any(isinstance(plan, NestedEquation) for plan in analysis.plans)


def euler(x, end):
    def step(state):
        time, x = state
        size = jnp.minimum(0.1, end - time)
        return time + size, x + size * jnp.sin(x)

    return jax.lax.while_loop(lambda s: s[0] < end, step, (0.0, x))[1]


def counted(x, count):
    return jax.lax.fori_loop(0, count, lambda k, x: x * 1.1 + k, x)


def tagged(x, count):  # a carry that depends on x, but which x does not read
    def step(state):
        k, x, largest = state
        return k + 1, jnp.sinh(x / 2), jnp.maximum(largest, x.max())

    return jax.lax.while_loop(lambda s: s[0] < count, step, (0, x, x.max()))[1]


@pytest.mark.parametrize(("f", "arg"), [(euler, 0.95), (counted, 4), (tagged, 3)])
def test_a_loop_that_is_counted_at_run_time_has_an_inverse(f, arg, x64):
    x = jnp.array([0.5, -1.2, 2.0])
    inverted = jax.jit(density.inverse_and_log_det(f))
    for shift in (0, 1, 2):
        y, log_det = density.value_and_log_det(f)(x, arg + shift)
        found, back = inverted(y, arg + shift)
        np.testing.assert_allclose(jnp.append(found, back), jnp.append(x, -log_det), rtol=1e-9)
    jacobian = jax.jacfwd(lambda y: density.inverse(f)(y, arg))(f(x, arg))
    expected = jnp.linalg.inv(jax.jacfwd(f)(x, arg))
    np.testing.assert_allclose(jacobian, expected, atol=1e-9)
    assert density.inspect(f, x, arg).injective in ("proved", "assumed")


def test_a_loop_whose_trips_depend_on_x_is_refused():
    f = lambda x: jax.lax.while_loop(lambda x: jnp.abs(x).max() > 1, lambda x: x / 2, x)
    with pytest.raises(density.NotInjectiveError, match=r"a loop whose trips depend on x.*rule"):
        density.inverse(f)(jnp.ones(2))
