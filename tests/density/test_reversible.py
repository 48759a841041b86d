"""Gradients through layers that are inverted on the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl.density import NotInjectiveError, reversible

N, WIDTH = 8, 16


def layer(x, p):
    kept, moved = jnp.split(x, 2)
    scale, shift = jnp.split(p["out"] @ jnp.tanh(p["in"] @ kept), 2)
    return jnp.concatenate([moved * jnp.exp(jnp.tanh(scale)) + shift, kept])


def parameters(length):
    rng = np.random.default_rng(0)
    return {
        "in": jnp.asarray(rng.normal(size=(length, WIDTH, N // 2)) / 2, jnp.float32),
        "out": jnp.asarray(rng.normal(size=(length, N, WIDTH)) / 8, jnp.float32),
    }


def scanned(layer):
    batched = jax.vmap(layer, (0, None))
    return lambda x, params: jax.lax.scan(lambda x, p: (batched(x, p), None), x, params)[0]


def loss(run):
    def of(params, xs):
        return jnp.sum(jnp.sin(run(xs, params))) / len(xs)

    return of


XS = jnp.asarray(np.random.default_rng(1).normal(size=(4, N)), jnp.float32)


@pytest.mark.parametrize("checkpoints", [1, 3])
def test_gradients_are_those_of_a_scan(checkpoints):
    params = parameters(7)
    found = jax.jit(jax.grad(loss(reversible(layer, checkpoints=checkpoints)), (0, 1)))(params, XS)
    expected = jax.jit(jax.grad(loss(scanned(layer)), (0, 1)))(params, XS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, expected
    )


def test_where_inverses_drift_the_gradient_is_that_of_a_scan():
    def lossy(x, p):  # rounding in the sum loses the digits that the division asks for
        return x * 1e-6 + p

    params = jnp.linspace(1.0, 2.0, 9)[:, None] * jnp.ones((1, N))
    found = jax.jit(jax.grad(loss(reversible(lossy, checkpoints=2)), (0, 1)))(params, XS)
    expected = jax.jit(jax.grad(loss(scanned(lossy)), (0, 1)))(params, XS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-12), found, expected
    )


def test_memory_does_not_grow_with_the_layers():
    xs = jnp.ones((256, N))

    def temporary(run, length):
        compiled = jax.jit(jax.grad(loss(run))).lower(parameters(length), xs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def growth(run):
        return (temporary(run, 40) - temporary(run, 8)) / 32

    gradients = (WIDTH * N // 2 + N * WIDTH) * 4  # those of a layer, on their way to the result
    assert growth(reversible(layer, checkpoints=2)) <= 3 * gradients
    assert growth(scanned(layer)) >= xs.size * 4


def test_bad_layers_are_refused():
    with pytest.raises(NotInjectiveError):
        jax.grad(lambda p: reversible(lambda x, p: jnp.abs(x) + p)(XS, p).sum())(jnp.ones((3, N)))
    with pytest.raises(ValueError, match="checkpoints is 0"):
        reversible(layer, checkpoints=0)
    with pytest.raises(ValueError, match="no leading axis"):
        reversible(layer)(XS, jnp.ones(()))
    with pytest.raises(TypeError, match="int32"):
        reversible(lambda x, p: x + p)(XS, jnp.arange(3))


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_units_do_not_decide_whether_inverses_drift(scale):
    def lossy(x, p):
        return x * 1e-6 + p

    params = scale * jnp.linspace(1.0, 2.0, 9)[:, None] * jnp.ones((1, N))
    run = reversible(lossy, checkpoints=2)
    of = lambda run: lambda params: jnp.sin(run(scale * XS, params) / scale).mean() * scale
    found, expected = (jax.jit(jax.grad(of(r)))(params) for r in (run, scanned(lossy)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
