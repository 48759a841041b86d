"""Every public function under every transformation; none compiles again."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density

MATRIX = np.random.default_rng(0).normal(size=(3, 3)).astype("float32") + 2 * np.eye(3, dtype="f")


def f(x, a):
    """A coupling, a matrix, a scan and a function that has to be solved."""
    x = jax.lax.scan(lambda x, b: (jnp.roll(x * jnp.exp(b), 1), None), x, a * jnp.ones(2))[0]
    return x + 0.5 * jnp.tanh(jnp.asarray(MATRIX) @ x) / 4


def normal(x):
    return jax.scipy.stats.norm.logpdf(x).sum()


draw = density.sample_and_log_prob(lambda key: jax.random.normal(key, (3,)), normal, f)
CALLS = {
    "value_and_log_det": lambda x, a: density.value_and_log_det(f)(x, a)[1],
    "log_abs_det_jacobian": density.log_abs_det_jacobian(f),
    "inverse": lambda y, a: density.inverse(f)(y, a).sum(),
    "inverse_and_log_det": lambda y, a: density.inverse_and_log_det(f)(y, a)[1],
    "pushforward": density.pushforward(normal, f),
    "pullback": density.pullback(normal, f),
    "sample_and_log_prob": lambda x, a: draw(jax.random.key(0), a)[1],
    "pushforward_branches": density.pushforward_branches(
        normal, lambda x, a: a * x, [lambda y, a: y / a]
    ),
    "value_and_log_volume": lambda x, a: density.value_and_log_volume(
        lambda x, a: jnp.concatenate([x, jnp.sin(a * x)])
    )(x, a)[1],
    "reversible": lambda x, a: density.reversible(lambda x, b: x * jnp.exp(b))(
        x[None], a * jnp.ones(2)
    ).sum(),
}
X, A = jnp.array([0.3, -1.2, 0.7]), jnp.float32(0.4)


@contextlib.contextmanager
def compilations():
    """Count what the compiler is asked for."""
    names = []

    def note(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("name", [n for n in CALLS if n != "reversible"])
def test_a_second_eager_call_compiles_nothing(name):
    call, other = CALLS[name], (X + 0.1, A + 0.1)
    call(X, A)
    with compilations() as made:
        call(*other)
    assert not made


@pytest.mark.parametrize("name", CALLS)
def test_jit_vmap_grad_and_scan(name):
    call = CALLS[name]

    @jax.jit
    def all_of(x, a):
        one, gradient = jax.value_and_grad(call, argnums=1)(x, a)
        lanes = jax.vmap(call, (0, None))(jnp.stack([x, x + 0.1]), a)
        last, _ = jax.lax.scan(lambda s, x: (s + call(x, a), None), 0.0, jnp.stack([x, x]))
        step = 1e-2
        slope = (call(x, a + step) - call(x, a - step)) / (2 * step)
        return one, gradient, lanes, last, slope

    one, gradient, lanes, last, slope = all_of(X, A)
    assert np.isclose(lanes[0], one, rtol=1e-4, atol=1e-5)
    assert np.isclose(last, 2 * one, rtol=1e-4, atol=1e-5)
    assert np.isclose(gradient, slope, rtol=2e-2, atol=5e-3)


def test_forward_mode_of_the_inverse_and_of_the_log_det():
    both = jax.jit(lambda x: jax.jacfwd(lambda y: density.inverse_and_log_det(f)(y, A))(x))
    jacobian, slope = both(f(X, A))
    expected = jnp.linalg.inv(jax.jacfwd(f)(X, A))
    np.testing.assert_allclose(jacobian, expected, rtol=1e-3, atol=1e-4)
    gradient = jax.grad(lambda x: -density.log_abs_det_jacobian(f)(x, A))(X) @ expected
    np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=1e-4)
