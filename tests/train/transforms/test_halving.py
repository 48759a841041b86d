"""Successive halving keeps the lanes that are better, and trains them as if alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcdl import data, train

LINE = train.objective(lambda key, x: jnp.full(2, 3.0), lambda w, x: jnp.mean((w.sum() - x) ** 2))
PROGRAM = train.program(LINE, lambda h: optax.sgd(h["rate"]))
RATES = np.float32([1e-3, 0.3, 0.1, 0.05, jnp.nan, 1e-2, 0.2, 0.02])  # |1 - 4 r| decides


def batches(key):
    return data.Batches(jnp.linspace(-1.0, 1.0, 16), 4, key=key)


def test_the_best_lanes_go_on_as_they_would_alone(key):
    many, source = train.sweep(PROGRAM, rate=RATES), batches(key)
    run = many.init(key, source.form)
    halve = jax.jit(lambda run, data: train.successive_halving(many, run, data, rounds=(4, 4, 8)))
    found = halve(run, source)
    assert [len(s) for s in found.scores] == [8, 4, 2]
    assert set(found.entered[1].tolist()) == {1, 2, 3, 6}  # NaN is worst
    for round, (entered, scores) in enumerate(zip(found.entered, found.scores)):
        for i, score in zip(entered.tolist(), scores):
            alone = PROGRAM.init(jax.random.split(key, 1)[0], source.form, {"rate": RATES[i]})
            steps = (4, 8, 16)[round]
            _, metrics = train.unroll(PROGRAM, alone, source, steps=steps)
            late = {0: 2, 1: 6, 2: 12}[round]
            np.testing.assert_allclose(score, metrics["loss"][late:].mean(), rtol=1e-4)
    best = int(found.entered[2][jnp.nanargmin(found.scores[2])])
    assert found.lanes.tolist() == [best]
    assert found.run.step == 16
    assert found.run.hyper["rate"] == RATES[best]


def test_a_score_of_ones_own_decides_and_orders_are_followed(key):
    many, keys = train.sweep(PROGRAM, rate=[0.01, 0.02, 0.03]), jax.random.split(key, 3)
    source = data.orders(batches(key), keys)
    run = many.init(key, source.form)
    found = train.successive_halving(
        many, run, source, rounds=(2, 2), score=lambda run: -run.hyper["rate"], factor=2
    )
    assert found.entered[1].tolist() == [2, 1]
    assert found.lanes.tolist() == [2]
    alone = PROGRAM.init(jax.random.split(key, 1)[0], source.batches.form, {"rate": 0.03})
    ordered = data.Batches(source.batches.arrays, 4, key=keys[2])
    expected, _ = train.unroll(PROGRAM, alone, ordered, steps=4)
    np.testing.assert_allclose(found.run.params[0], expected.params, rtol=1e-6)
