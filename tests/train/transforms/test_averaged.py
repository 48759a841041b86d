"""Averages are those of the iterates, also of lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcdl import losses, nn, train

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
Y = jnp.zeros(8)


def model():
    def init(key, x):
        return nn.Variables(
            {"body": {"kernel": jnp.ones(3), "bias": jnp.zeros(())}, "head": jnp.ones(())},
            {"count": jnp.int32(0), "mean": jnp.zeros(3)},
        )

    def apply(params, state, x, key=None):
        y = params["head"] * (x @ params["body"]["kernel"] + params["body"]["bias"])
        if key is not None:
            state = {"count": state["count"] + 1, "mean": x.mean(0) * state["count"]}
        return y, state

    return nn.Model(init, apply)


OBJECTIVE = train.supervised(model(), losses.squared_error)


def test_the_average_is_the_mean_first_and_exponential_later(key):
    decay = 0.75
    program = train.averaged(train.program(OBJECTIVE, optax.sgd(0.05)), decay=decay)
    run, step = program.init(key, (X, Y)), jax.jit(program.step)
    seen, expected = [], None
    for t in range(1, 9):
        run, _ = step(run, (X, Y))
        seen.append(run.params["body"]["kernel"])
        expected = jnp.stack(seen).mean(0) if t <= 4 else decay * expected + (1 - decay) * seen[-1]
        found = train.average(run)
        np.testing.assert_allclose(found.params["body"]["kernel"], expected, rtol=1e-5)
        assert found.state["count"] == run.state["count"] == t
    assert found.state["mean"].dtype == jnp.float32
    assert not np.allclose(found.state["mean"], run.state["mean"])


def test_averages_of_lanes_and_lanes_of_averages_agree(key):
    plain = train.program(OBJECTIVE, lambda h: optax.sgd(h["rate"]))
    rates = [0.01, 0.05]
    found = []
    for program in (
        train.averaged(train.sweep(plain, rate=rates), decay=0.5),
        train.sweep(train.averaged(plain, decay=0.5), rate=rates),
    ):
        run = program.init(key, (X, Y))
        for _ in range(3):
            run, _ = jax.jit(program.step)(run, (X, Y))
        found.append(train.average(run))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)
