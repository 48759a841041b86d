"""Gradients in parts are gradients of the whole; clipped ones are sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import losses, nn, train
from funcdl.losses import Mean
from funcdl.nn import Variables

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(64, 5)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, size=64))
MASK = jnp.asarray(RNG.uniform(size=64) < 0.4).at[jnp.arange(0, 64, 4)].set(False)
W = {"w": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), "b": jnp.zeros(3)}


def masked(params, batch):
    """A microbatch of every fourth example, from 0 on, has no weight at all."""
    x, y, mask = batch
    z = jax.nn.log_softmax(x @ params["w"] + params["b"][None])
    each = -jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
    return Mean((mask * each).sum(), mask.sum())


TOKENS = train.objective(lambda key, batch: W, masked)
PLAIN = train.objective(lambda key, batch: W, lambda p, b: masked(p, b).total / len(b[0]))


@pytest.mark.parametrize("objective", [TOKENS, PLAIN], ids=["Mean", "scalar"])
def test_four_microbatches_of_16_are_one_batch_of_64(key, objective):
    batch = X, Y, MASK
    results = []
    for gradient in (train.gradient, train.accumulated(4)):
        program = train.program(objective, optax.adam(1e-2), gradient)
        results.append(jax.jit(program.step)(program.init(key, batch), batch))
    (whole, metrics), (parts, found) = results
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-6)


def test_state_passes_from_microbatch_to_microbatch_and_keys_differ(key):
    def apply(params, state, x, key=None):
        noise = 0.0 if key is None else jax.random.normal(key)
        state = {"calls": state["calls"] + 1, "noise": state["noise"].at[state["calls"]].set(noise)}
        return x @ params, state

    init = lambda key, x: Variables(jnp.ones(5), {"calls": jnp.int32(0), "noise": jnp.zeros(4)})
    objective = train.supervised(nn.Model(init, apply), losses.squared_error)
    program = train.program(objective, optax.sgd(0.1), train.accumulated(4))
    batch = X, jnp.zeros(64)
    run, _ = jax.jit(program.step)(program.init(key, batch), batch)
    assert run.state["calls"] == 4
    assert len(set(run.state["noise"].tolist())) == 4


def test_temporary_memory_is_that_of_one_microbatch(key):
    def loss(w, x):
        for _ in range(6):
            x = jnp.tanh(x @ w)
        return (x**2).mean()

    objective = train.objective(lambda key, x: jnp.eye(32), loss)

    def memory(gradient, rows):
        program = train.program(objective, optax.sgd(0.1), gradient)
        batch = jnp.ones((rows, 32))
        run = program.init(key, batch)
        compiled = jax.jit(program.step).lower(run, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one = memory(train.gradient, 512)
    assert memory(train.accumulated(8), 8 * 512) <= 1.2 * one
    assert memory(train.gradient, 8 * 512) > 4 * one


def test_metrics_of_microbatches_are_means_over_the_batch(key):
    model = nn.Model(lambda key, x: Variables(W, {}), lambda p, s, x, key=None: (x @ p["w"], s))
    objective = train.supervised(model, losses.softmax_cross_entropy, {"accuracy": losses.accuracy})
    program = train.program(objective, optax.sgd(0.1), train.accumulated(8))
    _, found = program.step(program.init(key, (X, Y)), (X, Y))
    np.testing.assert_allclose(found["accuracy"], (jnp.argmax(X @ W["w"], 1) == Y).mean())


def test_clipped_is_the_mean_of_clipped_gradients_of_each_example(key):
    bound = 0.7
    program = train.program(PLAIN, optax.sgd(1.0), train.clipped_per_example(bound))
    batch = X[:8], Y[:8], jnp.ones(8, bool)
    run, metrics = program.step(program.init(key, batch), batch)
    one = lambda x, y, m: jax.grad(lambda p: masked(p, (x[None], y[None], m[None])).total)(W)
    each = jax.vmap(one)(*batch)
    norms = jnp.sqrt(sum((g.reshape(8, -1) ** 2).sum(1) for g in jax.tree.leaves(each)))
    assert (norms > bound).any()
    assert (norms < bound).any()
    share = jnp.minimum(1, bound / norms)
    for name in W:
        expected = W[name] - jnp.tensordot(share, each[name], 1) / 8
        np.testing.assert_allclose(run.params[name], expected, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], PLAIN.loss(W, {}, batch)[0], rtol=1e-6)


def test_noise_has_the_spread_that_privacy_asks_for(key):
    bound, noise = 0.5, 2.0
    objective = train.objective(lambda key, x: jnp.zeros(4000), lambda w, x: (w.sum() * x).mean())
    grads, _, _ = train.clipped_per_example(bound, noise)(objective)(
        jnp.zeros(4000), {}, jnp.zeros(10), key
    )
    np.testing.assert_allclose(grads.std(), noise * bound / 10, rtol=0.05)
    assert abs(grads.mean()) < 4 * 0.1 / np.sqrt(4000)


def test_every_example_draws_noise_of_its_own(key):
    """Dropout under clipping: the mean of clipped gradients of batches of one."""

    def loss(w, state, x, key=None):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return ((jnp.where(kept, x, 0) @ w) ** 2).mean(), (state, {})

    objective = train.Objective(lambda key, x: Variables(jnp.ones(5), {}), loss)
    grads, _, _ = train.clipped_per_example(2.0)(objective)(jnp.ones(5), {}, X, key)
    keys = jax.random.split(jax.random.split(key)[0], 64)
    one = jax.grad(lambda w, x, k: loss(w, {}, x[None], k)[0])
    each = jax.vmap(one, (None, 0, 0))(jnp.ones(5), X, keys)
    norms = jnp.linalg.norm(each, axis=1, keepdims=True)
    expected = (each * jnp.minimum(1, 2.0 / jnp.maximum(norms, 1e-9))).mean(0)
    np.testing.assert_allclose(grads, expected, atol=1e-6)
