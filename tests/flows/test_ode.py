"""Continuous flows: their order, their inverse, and traces integrated along the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import expm

from funcdl import flows

pytestmark = pytest.mark.usefixtures("x64")
A = 0.5 * np.random.default_rng(0).normal(size=(3, 3))
X = np.random.default_rng(1).normal(size=3)


def swirl(t, x, a):
    return jnp.tanh(a @ x) + jnp.sin(3 * t) * x[::-1]


def test_a_linear_velocity_is_followed_to_the_matrix_exponential():
    f = flows.flow_ode(lambda t, x, a: a @ x, steps=50, t1=1.3)
    np.testing.assert_allclose(jax.jit(f)(X, A), expm(1.3 * jnp.asarray(A)) @ X, rtol=1e-8)
    _, log_det = jax.jit(flows.flow_ode_log_det(lambda t, x, a: a @ x, steps=3))(X, A)
    np.testing.assert_allclose(log_det, np.trace(A), rtol=1e-12)


def test_the_error_falls_with_the_fourth_power_of_the_steps():
    ends = [jax.jit(flows.flow_ode(swirl, steps=n, t1=2.0))(X, A) for n in (8, 16, 128)]
    coarse, fine = (np.abs(end - ends[-1]).max() for end in ends[:2])
    assert 10 < coarse / fine < 26


def test_the_way_back_is_the_inverse():
    there = flows.flow_ode(swirl, steps=100, t0=0.5, t1=2.0)
    back = flows.flow_ode(swirl, steps=100, t0=2.0, t1=0.5)
    np.testing.assert_allclose(jax.jit(lambda x: back(there(x, A), A))(X), X, atol=1e-8)


def test_the_trace_along_the_way_is_the_log_determinant_of_the_map():
    settings = {"steps": 100, "t0": 0.5, "t1": 2.0}
    f = flows.flow_ode(swirl, **settings)
    z, log_det = jax.jit(flows.flow_ode_log_det(swirl, **settings))(X, A)
    np.testing.assert_allclose(z, jax.jit(f)(X, A), rtol=1e-14)
    dense = jnp.linalg.slogdet(jax.jit(jax.jacfwd(f))(X, A))[1]
    np.testing.assert_allclose(log_det, dense, rtol=1e-8)
    estimate = flows.flow_ode_hutchinson(swirl, **settings)
    found = jax.jit(lambda key: estimate(X, A, key=key, probes=400)[1])(jax.random.key(0))
    assert abs(found.value - log_det) < 3 * found.stderr < 0.3
    assert found.matvecs == 400 * 400


def test_gradients_are_those_of_what_is_computed_in_both_modes():
    follow = flows.flow_ode_log_det(swirl, steps=4)
    total = lambda x, a: (lambda z, log_det: (z**2).sum() + log_det)(*follow(x, a))
    x, a = jnp.asarray(X), jnp.asarray(A)
    direction = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3)))

    @jax.jit
    def check():
        along = lambda s: total(x, a + s * direction)
        forward = jax.jvp(along, (0.0,), (1.0,))[1]
        backward = jnp.vdot(jax.grad(total, argnums=1)(x, a), direction)
        return forward, backward, (along(1e-5) - along(-1e-5)) / 2e-5

    forward, backward, difference = check()
    np.testing.assert_allclose(forward, difference, rtol=1e-8)
    np.testing.assert_allclose(backward, forward, rtol=1e-12)


def test_the_gradient_holds_one_state_a_step():
    """What is kept for the way back is the start of each step, not what is inside."""

    def residuals(steps):
        x = jnp.ones(50)
        f = lambda x, a: flows.flow_ode(swirl, steps=steps)(x, a).sum()
        compiled = jax.jit(jax.grad(f)).lower(x, jnp.eye(50)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    per_step = (residuals(1000) - residuals(500)) / 500
    assert per_step <= 3 * 50 * 8


def test_a_continuous_flow_follows_the_velocity_of_its_network():
    net = flows.mlp(5, activation=jnp.tanh)
    flow, v = flows.continuous(net, steps=6), flows.velocity(net)
    x, context = jnp.asarray(X), jnp.ones(2)
    params = jax.jit(lambda key: flow.init(key, x, context))(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1, params)
    z = jax.jit(flow.forward)(params, x, context)
    both = jax.jit(flows.flow_ode_log_det(v, steps=6))(x, params, context)
    np.testing.assert_allclose(both[0], z, rtol=1e-12)
    dense = jnp.linalg.slogdet(jax.jit(jax.jacfwd(flow.forward, argnums=1))(params, x, context))[1]
    np.testing.assert_allclose(both[1], dense, rtol=1e-4)
