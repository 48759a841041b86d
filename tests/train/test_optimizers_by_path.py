"""Each leaf follows the optimizer of its path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


def test_each_path_follows_its_own_optimizer_and_frozen_leaves_stay(key):
    optimizer = train.optimizers_by_path(
        {"**/bias": optax.set_to_zero(), "body": optax.adam(0.1), "**": optax.sgd(0.2)}
    )
    program = train.program(OBJECTIVE, optimizer)
    run = program.init(key, (X, Y))
    after = run
    for _ in range(3):
        after, _ = jax.jit(program.step)(after, (X, Y))
    assert after.params["body"]["bias"] == 0.0

    params = run.params
    adam = optax.adam(0.1)
    moments = adam.init(params["body"]["kernel"])
    for _ in range(3):
        grads = jax.grad(lambda p: OBJECTIVE.loss(p, run.state, (X, Y))[0])(params)
        update, moments = adam.update(grads["body"]["kernel"], moments)
        params = {
            "body": {"kernel": params["body"]["kernel"] + update, "bias": jnp.zeros(())},
            "head": params["head"] - 0.2 * grads["head"],
        }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after.params, params)
    sizes = [x.size for x in jax.tree.leaves(after.opt_state)]
    assert sum(sizes) == 3 + 3 + 1  # two moments of the kernel, their count


@pytest.mark.parametrize(
    ("globs", "words"),
    [
        (("haed", "**"), "'haed' matches nothing; the nearest path is 'head'"),
        (("**", "head"), "earlier globs already match all leaves that 'head' matches"),
        (("body",), "matches 'head'"),
    ],
)
def test_globs_that_say_nothing_are_refused(key, globs, words):
    program = train.program(OBJECTIVE, train.optimizers_by_path({g: optax.sgd(0.1) for g in globs}))
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        program.init(key, (X, Y))


def test_plateaus_and_line_searches_get_their_arguments_through_a_partition(key):
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, cooldown=0))
    program = train.program(OBJECTIVE, train.optimizers_by_path({"**": plateau}))
    still = jnp.zeros_like(X)
    run, step = program.init(key, (still, Y)), jax.jit(program.step)
    for _ in range(6):
        run, _ = step(run, (still, Y))
    scales = [x for x in jax.tree.leaves(run.opt_state) if x.dtype == jnp.float32]
    assert any(0 < x < 1 for x in scales)  # the loss did not improve: the scale fell
