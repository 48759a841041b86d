"""Derivatives through training, against finite differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import data, losses, train

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 4)), RNG.normal(size=24)
SPLIT = 16


def predict(params, x):
    hidden = jnp.tanh(x @ params["w"])
    return hidden @ params["v"]


def setting(key, optimizer):
    init = lambda key, batch: {
        "w": jax.random.normal(key, (4, 5), float) / 2,
        "v": jnp.ones(5, float) / 5,
    }
    loss = lambda p, batch: losses.squared_error(predict(p, batch[0]), batch[1])
    program = train.program(train.objective(init, loss), optimizer)
    batches = data.Batches((jnp.asarray(X[:SPLIT]), jnp.asarray(Y[:SPLIT])), 4, key=key)
    held_out = jnp.asarray(X[SPLIT:]), jnp.asarray(Y[SPLIT:])
    return program, batches, lambda run: loss(run.params, held_out)


@pytest.mark.parametrize("segments", [1, 4])
def test_hypergradients_are_those_of_finite_differences(key, x64, segments):
    optimizer = lambda hyper: optax.chain(
        optax.add_decayed_weights(hyper["decay"]),
        optax.sgd(hyper["rate"], momentum=hyper["momentum"]),
    )
    program, batches, validation = setting(key, optimizer)

    def reached(hyper):
        hyper = dict(zip(("rate", "momentum", "decay"), hyper))
        run = program.init(key, batches.form, hyper)
        return validation(train.unroll(program, run, batches, steps=20, segments=segments)[0])

    at, h = jnp.asarray([0.1, 0.6, 0.05]), 1e-5
    slope = jax.jit(jax.grad(reached))(at)
    value = jax.jit(reached)
    ends = [(value(at + h * e), value(at - h * e)) for e in jnp.eye(3)]
    differences = [(a - b) / (2 * h) for a, b in ends]
    np.testing.assert_allclose(slope, differences, rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(reached)(at), slope, rtol=1e-10)


def test_hypergradients_in_float32_agree_to_1e_4(key):
    program, batches, validation = setting(key, lambda h: optax.adam(h["rate"]))

    def reached(rate):
        run = program.init(key, batches.form, {"rate": rate})
        return validation(train.unroll(program, run, batches, steps=20)[0])

    slope = jax.jit(jax.grad(reached))(0.02)
    start = program.init(key, batches.form, {"rate": 0.0}).params
    with jax.enable_x64(True):
        program, batches64, validation = setting(key, lambda h: optax.adam(h["rate"]))

        @jax.jit
        def wide(rate):
            run = program.init(key, batches64.form, {"rate": rate})
            run = run._replace(params=jax.tree.map(lambda p: p.astype(float), start))
            return validation(train.unroll(program, run, batches64, steps=20)[0])

        h = 1e-6
        expected = (wide(jnp.float64(0.02 + h)) - wide(jnp.float64(0.02 - h))) / (2 * h)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_unrolled_steps_are_those_of_fit(key):
    program, batches, _ = setting(key, optax.adam(0.01))
    run = program.init(key, batches.form)
    fitted, history = train.fit(program, run, batches, steps=12, chunk=5)
    for segments in (1, 3):
        unrolled, metrics = train.unroll(program, run, batches, steps=12, segments=segments)
        np.testing.assert_allclose(metrics["loss"], history.metrics["loss"], rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), unrolled.params, fitted.params
        )


def test_segments_bound_the_memory_of_a_hypergradient(key):
    program, batches, validation = setting(key, lambda h: optax.sgd(h["rate"]))

    def memory(segments):
        def reached(rate):
            run = program.init(key, batches.form, {"rate": rate})
            run, _ = train.unroll(program, run, batches, steps=400, segments=segments)
            return validation(run)

        compiled = jax.jit(jax.grad(reached)).lower(0.1).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(20) < 0.2 * memory(1)


def test_the_range_test_finds_where_gradient_descent_diverges(key):
    curvatures = jnp.asarray([1.0, 4.0])
    loss = lambda w, batch: (curvatures * w**2).sum() / 2 + 0 * batch.mean()
    objective = train.objective(lambda key, x: jnp.asarray([1.0, 1.0]), loss)
    program = train.program(objective, lambda h: optax.sgd(h["learning_rate"]))
    batches = data.Batches(jnp.zeros(8), 4)
    run = program.init(key, batches.form, {"learning_rate": 1.0})
    find = jax.jit(
        lambda run: train.learning_rate_range_test(
            program, run, batches, low=1e-3, high=1e2, steps=200
        )
    )
    found = find(run)
    # steps multiply the second coordinate by |1 - 4 r|, so it grows again from r = 1/2 on
    assert 0.5 < found.diverges < 5.0
    assert 0.005 < found.steepest < 0.5
    np.testing.assert_allclose(found.rates[jnp.asarray([0, -1])], [1e-3, 1e2], rtol=1e-5)
    assert jnp.argmin(jnp.where(jnp.isfinite(found.smoothed), found.smoothed, jnp.inf)) < 199
    np.testing.assert_allclose(found.losses[0], 2.5)
    assert run.step == 0


def test_a_range_test_that_never_diverges_ends_at_the_largest_rate(key):
    program, batches, _ = setting(key, lambda h: optax.sgd(h["learning_rate"]))
    run = program.init(key, batches.form, {"learning_rate": 0.0})
    found = train.learning_rate_range_test(program, run, batches, low=1e-5, high=1e-3, steps=30)
    np.testing.assert_allclose(found.diverges, 1e-3, rtol=1e-5)
    whole = program.init(key, batches.form, {"learning_rate": 1})
    again = train.learning_rate_range_test(program, whole, batches, low=1e-5, high=1e-3, steps=30)
    np.testing.assert_array_equal(again.losses, found.losses)
