"""A number that reaches a result without a derivative is not known before it is solved for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density


def mapped(step):
    return lambda x: jax.lax.map(step, x)


def scanned(step):
    return lambda x: jax.lax.scan(lambda c, x: (c, step(x)), 0.0, x)[1]


def repeated(step):
    return lambda x: jax.lax.fori_loop(0, 2, lambda _, s: 0.5 * s + step(x), jnp.zeros_like(x))


def ruled(step):
    call = jax.custom_jvp(lambda x: step(x))
    call.defjvp(lambda p, t: (call(*p), jnp.zeros_like(t[0])))
    return call


def branched(step):
    return lambda x: jax.lax.cond(x[0] > 5, lambda x: 2 * step(x), step, x)


def batched_while(step):
    """A loop whose trips depend on the number itself."""
    trips = lambda x: jax.lax.while_loop(lambda s: s[0] < step(x), lambda s: (s[0] + 1.0, s[1] + 1),
                                         (-3.0, 0.0))[1]  # fmt: skip
    return jax.vmap(trips)


STEPS = {
    "sign": jnp.sign,
    "floor": jnp.floor,
    "round": jnp.round,
    "integer": lambda x: x.astype(int).astype(x.dtype),
    "comparison": lambda x: (x > 0.1).astype(x.dtype),
}
HIDDEN = [mapped, scanned, repeated, ruled, branched, batched_while]
PAIRS = [(hide, name) for hide in HIDDEN for name in STEPS]
often = [(mapped, "sign"), (scanned, "floor"), (repeated, "round"), (ruled, "integer"),
         (branched, "comparison"), (batched_while, "floor")]  # fmt: skip


@pytest.mark.parametrize(
    ("hide", "name"),
    [pytest.param(*p, marks=[] if p in often else pytest.mark.slow) for p in PAIRS],
)
def test_a_step_of_x_is_never_taken_for_known_or_proved(hide, name, x64):
    hidden = hide(STEPS[name])
    f = lambda x: x + hidden(x)
    points = jnp.array([[0.3, -1.2, 2.7], [0.6, 0.9, -0.4]])
    targets = jnp.concatenate([jax.vmap(f)(points), jnp.array([[0.5, -0.5, 0.25]])])
    found = jax.jit(jax.vmap(density.inverse(f)))(targets)
    residual = jax.vmap(f)(found) - targets
    assert (np.isnan(residual) | (np.abs(residual) < 1e-9)).all()
    assert density.inspect(f, points[0]).injective == "assumed"
    assert np.isclose(density.log_abs_det_jacobian(f)(points[0]), 0)


def test_a_value_without_derivative_is_solved_for(x64):
    f = lambda x: x - 0.5 * jax.lax.stop_gradient(x)
    assert density.inspect(f, jnp.ones(2)).injective == "assumed"
    found = density.inverse(f)(jnp.array([0.0, 1.0]))
    assert (np.isnan(found) | np.isclose(f(found), jnp.array([0.0, 1.0]))).all()


def printing(x):
    y = 2 * x
    jax.debug.callback(lambda _: None, y.sum())
    return y + jnp.tanh(y)


LANES = {
    "own trips": lambda x: jax.vmap(
        lambda v, k: jax.lax.fori_loop(0, k, lambda _, v: 1.1 * v + 0.1 * jnp.tanh(v), v))(
            x, jnp.array([1, 2, 3])),
    "own test": lambda x: jax.vmap(lambda v: jax.lax.while_loop(
        lambda s: s[0] < 4.0, lambda s: (s[0] + 1.0, 1.1 * s[1]), (jnp.abs(v), v))[1])(x),
    "effect": printing,
    "product of many": lambda x: jnp.cumprod(jnp.exp(jnp.tile(x, 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", LANES)
def test_lanes_and_effects_do_not_disturb(name, x64):
    f, x = LANES[name], jnp.array([0.3, -1.2, 0.7])
    found = density.log_abs_det_jacobian(f)(x)
    np.testing.assert_allclose(found, jnp.linalg.slogdet(jax.jacfwd(f)(x))[1], rtol=1e-9)
    np.testing.assert_allclose(density.inverse(f)(f(x)), x, rtol=1e-7)


@pytest.mark.parametrize("n", [50, 200])
def test_products_that_under_and_overflow_at_trial_points_are_not_refuted(n):
    x = 0.1 * jnp.cos(jnp.arange(n))
    f = lambda x: jnp.cumprod(jnp.exp(x))
    np.testing.assert_allclose(density.inverse(f)(f(x)), x, atol=1e-5)
