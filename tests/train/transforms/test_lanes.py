"""A lane is its run alone: ensembles, sweeps, orders of the data."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from funcdl import data, losses, nn, train

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(32, 4)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, size=32))
RATES, SEEDS, STEPS = np.float32([0.01, 0.1, 0.3]), 2, 20


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(8)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        x = linen.Dropout(0.2, deterministic=not train)(jnp.tanh(x))
        return linen.Dense(3)(x)


OBJECTIVE = train.supervised(
    nn.from_linen(Net()), losses.softmax_cross_entropy, {"accuracy": losses.accuracy}
)
PROGRAM = train.program(OBJECTIVE, lambda h: optax.sgd(h["rate"], momentum=h["momentum"]))


@pytest.fixture
def batches(key):
    return data.Batches((X, Y), 8, key=key)


@partial(jax.jit, static_argnums=(0, 3))
def curve(program, run, source, steps=STEPS):
    return train.unroll(program, run, source, steps=steps)


def test_lane_i_has_configuration_i_over_seeds_and_the_curve_of_its_run_alone(key, batches):
    momenta = np.float32([0.0, 0.5, 0.9])
    many = train.sweep(PROGRAM, seeds=SEEDS, rate=RATES, momentum=momenta)
    run = many.init(key, batches.form)
    np.testing.assert_array_equal(run.hyper["rate"], np.repeat(RATES, SEEDS))
    np.testing.assert_array_equal(run.hyper["momentum"], np.repeat(momenta, SEEDS))
    after, metrics = curve(many, run, batches)
    assert metrics["loss"].shape == (STEPS, len(RATES) * SEEDS)
    keys = jax.random.split(key, SEEDS)
    for i in range(len(RATES) * SEEDS):
        hyper = {"rate": RATES[i // SEEDS], "momentum": momenta[i // SEEDS]}
        alone = PROGRAM.init(keys[i % SEEDS], batches.form, hyper)
        _, expected = curve(PROGRAM, alone, batches)
        np.testing.assert_allclose(metrics["loss"][:, i], expected["loss"], rtol=1e-5)
    assert after.step == STEPS


def test_the_same_seed_draws_the_same_net_whatever_the_configuration(key, batches):
    run = train.sweep(PROGRAM, seeds=2, rate=[0.1, 0.2], momentum=[0, 0]).init(key, batches.form)
    kernel = run.params["Dense_0"]["kernel"]
    np.testing.assert_array_equal(kernel[0], kernel[2])
    assert not np.array_equal(kernel[0], kernel[1])


def test_a_lane_continues_alone(key, batches):
    many = train.sweep(PROGRAM, rate=RATES, momentum=np.zeros(3, np.float32))
    run, _ = curve(many, many.init(key, batches.form), batches)
    both, metrics = curve(many, run, batches, 5)
    one, expected = curve(PROGRAM, train.lane(run, 1), batches, 5)
    np.testing.assert_allclose(metrics["loss"][:, 1], expected["loss"], rtol=1e-5)
    assert one.step == both.step == STEPS + 5


def test_values_of_a_sweep_take_the_place_of_given_ones(key, batches):
    many = train.sweep(PROGRAM, rate=[0.1, 0.2])
    run = many.init(key, batches.form, {"rate": 7.0, "momentum": 0.5})
    assert run.hyper["rate"].tolist() == pytest.approx([0.1, 0.2])
    assert run.hyper["momentum"].tolist() == [0.5, 0.5]


def test_fit_takes_a_sweep_and_resumes_it(key, batches):
    many = train.sweep(PROGRAM, seeds=2, rate=[0.1, 0.2], momentum=[0.9, 0.0])
    run, history = train.fit(many, many.init(key, batches.form), batches, steps=6)
    assert history.metrics["accuracy"].shape == (6, 4)
    again, _ = train.fit(many, run, batches, steps=8)
    whole, _ = train.fit(many, many.init(key, batches.form), batches, steps=8)
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(whole.params)):
        np.testing.assert_array_equal(a, b)


def test_each_member_may_have_its_own_order(key, batches):
    keys = jax.random.split(jax.random.key(7), 3)
    many, one = train.ensemble(PROGRAM, 3), {"rate": 0.1, "momentum": 0.9}
    source = data.orders(batches, keys)
    seen = []
    spy = train.Program(
        lambda key, b, h=None: seen.append(b) or PROGRAM.init(key, b, h), PROGRAM.step
    )
    train.ensemble(spy, 3).init(key, source.form, one)
    assert seen[0][0].shape == (8, 4)  # of one lane
    run, metrics = curve(many, many.init(key, source.form, one), source)
    for i, k in enumerate(jax.random.split(key, 3)):
        alone = PROGRAM.init(k, batches.form, one)
        _, expected = curve(PROGRAM, alone, data.Batches((X, Y), 8, key=keys[i]))
        np.testing.assert_allclose(metrics["loss"][:, i], expected["loss"], rtol=1e-5)
    fitted, _ = train.fit(many, many.init(key, source.form, one), source, steps=STEPS)
    for a, b in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(run.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_objective_may_depend_on_a_swept_value(key):
    def decayed(hyper):
        loss = lambda w, x: jnp.mean((w - x) ** 2) + hyper["penalty"] * w**2
        return train.objective(lambda key, x: jnp.ones(()), loss)

    program = train.program(decayed, optax.sgd(0.1))
    many = train.sweep(program, penalty=[0.0, 1.0, 3.0])
    run = many.init(key, jnp.full(4, 2.0))
    for _ in range(100):
        run, _ = many.step(run, jnp.full(4, 2.0))
    np.testing.assert_allclose(run.params, [2.0, 1.0, 0.5], rtol=1e-5)


def test_a_branch_on_a_swept_value_is_refused_with_its_line(key, batches):
    def optimizer(hyper):
        return optax.sgd(hyper["rate"] if hyper["rate"] > 0.1 else 0.1)  # this line

    many = train.sweep(train.program(OBJECTIVE, optimizer), rate=RATES)
    line = next(
        i
        for i, text in enumerate(Path(__file__).read_text().split("\n"), 1)
        if "# this line" in text
    )
    with pytest.raises(
        TypeError, match=rf"test_lanes\.py:{line} \(optimizer\).*swept value \(rate"
    ):
        many.init(key, batches.form)


def test_a_shape_from_a_swept_value_is_refused(key):
    def wide(hyper):
        return train.objective(lambda key, x: jnp.ones(hyper["width"]), lambda w, x: w.sum())

    many = train.sweep(train.program(wide, optax.sgd(0.1)), width=[2, 3])
    with pytest.raises(TypeError, match="a setting that changes shapes"):
        many.init(key, X)


def test_sweeps_of_an_ensemble_nest(key, batches):
    many = train.sweep(train.ensemble(PROGRAM, 2), rate=[0.1, 0.2], momentum=[0.0, 0.0])
    run, metrics = curve(many, many.init(key, batches.form), batches, 3)
    assert metrics["loss"].shape == (3, 2, 2)
    assert run.step.shape == ()
    assert train.lane(train.lane(run, 1), 0).key.shape == ()
    _, history = train.fit(many, many.init(key, batches.form), batches, steps=3)
    assert history.metrics["loss"].shape == (3, 2, 2)
    np.testing.assert_allclose(history.metrics["loss"], metrics["loss"], rtol=1e-5)


def test_a_grid_is_the_product_in_the_order_of_the_keywords():
    found = train.grid(a=[1, 2], b=[3, 4, 5])
    pairs = list(zip(found["a"].tolist(), found["b"].tolist()))
    assert pairs == [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)]
