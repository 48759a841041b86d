"""Objectives transformed: the same numbers in less memory, near ones in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import cases
from funcdl import losses, nn, train

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(64, 6)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, size=64))


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = linen.BatchNorm(use_running_average=not train)(linen.Dense(16)(x))
            x = linen.Dropout(0.1, deterministic=not train)(linen.relu(x))
        return linen.Dense(3)(x)


MODEL = nn.from_linen(Net())
OBJECTIVE = train.supervised(MODEL, losses.softmax_cross_entropy, {"accuracy": losses.accuracy})


def stepped(objective, key, steps=1):
    program = train.program(objective, optax.adam(1e-2))
    run, step = program.init(key, (X, Y)), jax.jit(program.step)
    for _ in range(steps):
        run, metrics = step(run, (X, Y))
    return run, metrics


@pytest.mark.parametrize("segments", cases.often([1, 3, 50], [3]))
def test_rematerialized_is_the_same_to_the_last_bit(key, segments):
    run, metrics = stepped(OBJECTIVE, key, 3)
    again, found = stepped(train.rematerialized(OBJECTIVE, segments=segments), key, 3)
    jax.tree.map(np.testing.assert_array_equal, again.variables, run.variables)
    assert found["loss"] == metrics["loss"]


def test_rematerialized_loops_take_less_memory_and_have_the_same_hessian(key):
    x = jnp.ones((64, 16))
    layer = lambda x, w: (jnp.tanh(jnp.sin(jnp.tanh(x @ w))), None)
    loss = lambda w, x: (jax.lax.scan(layer, x, w)[0] ** 2).mean()
    objective = train.objective(lambda key, x: jnp.tile(jnp.eye(16), (24, 1, 1)), loss)
    less = train.rematerialized(objective, segments=1)
    w, _ = objective.init(key, x)

    def memory(objective):
        f = lambda w: train.gradient(objective)(w, {}, x, key)[0]
        with cases.optimized():
            compiled = jax.jit(f).lower(w).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(less) < 0.5 * memory(objective)
    v = jnp.ones_like(w)
    products = [
        jax.jit(lambda w, o=o: jax.jvp(jax.grad(lambda w: o.loss(w, {}, x)[0]), (w,), (v,))[1])(w)
        for o in (objective, less)
    ]
    np.testing.assert_allclose(products[1], products[0], rtol=1e-5, atol=1e-7)


def test_rematerialized_segments_are_computed_again(key):
    segments, depth = 3, 9

    def loss(w, x):
        for _ in range(depth):
            x = jnp.tanh(x @ w)
        return x.mean()

    def products(objective):
        f = lambda w: train.gradient(objective)(w, {}, jnp.ones((4, 4)), key)[0]
        return jax.jit(f).lower(jnp.eye(4)).as_text().count("dot_general")

    objective = train.objective(lambda key, x: jnp.eye(4), loss)
    again = products(train.rematerialized(objective, segments=segments)) - products(objective)
    all_but_last = depth - depth // segments
    assert all_but_last - (segments - 1) <= again <= all_but_last  # borders may cut a layer


def test_rematerialized_under_vmap_of_an_ensemble(key):
    plain = train.ensemble(train.program(OBJECTIVE, optax.sgd(0.1)), 2)
    less = train.rematerialized(OBJECTIVE, segments=3)
    many = train.ensemble(train.program(less, optax.sgd(0.1)), 2)
    a, _ = jax.jit(plain.step)(plain.init(key, (X, Y)), (X, Y))
    b, _ = jax.jit(many.step)(many.init(key, (X, Y)), (X, Y))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), a.params, b.params)


def test_mixed_precision_computes_narrow_and_keeps_float32(key):
    seen = []

    def apply(params, state, x, key=None):
        seen.append((params["w"].dtype, x.dtype, state["mean"].dtype))
        return x @ params["w"], {"mean": state["mean"] + x.mean(0)}

    init = lambda key, x: nn.Variables({"w": jnp.ones((6, 3))}, {"mean": jnp.zeros(6)})
    for narrow in (
        train.mixed_precision(
            train.supervised(nn.Model(init, apply), losses.softmax_cross_entropy)
        ),
        train.supervised(
            train.mixed_precision(nn.Model(init, apply)), losses.softmax_cross_entropy
        ),
    ):
        run, metrics = stepped(narrow, key)
        assert seen[-1] == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
        assert (
            run.params["w"].dtype == run.state["mean"].dtype == metrics["loss"].dtype == "float32"
        )
        assert run.opt_state[0].mu["w"].dtype == jnp.float32


def test_mixed_precision_trains_as_float32_does(key):
    _, wide = stepped(OBJECTIVE, key, 60)
    _, narrow = stepped(train.mixed_precision(OBJECTIVE), key, 60)
    np.testing.assert_allclose(narrow["loss"], wide["loss"], rtol=0.1)


def test_small_updates_are_not_lost_in_bfloat16(key):
    objective = train.objective(lambda key, x: jnp.ones(()), lambda w, x: (w * x).mean())
    program = train.program(train.mixed_precision(objective), optax.sgd(1e-4))
    run = program.init(key, jnp.ones(2))
    for _ in range(10):
        run, _ = program.step(run, jnp.ones(2))
    np.testing.assert_allclose(run.params, 1 - 1e-3, rtol=1e-6)  # 1 - 1e-4 is 1 in bfloat16


def test_augmentation_changes_training_alone(key):
    shifted = train.augmented(OBJECTIVE, lambda key, batch: (batch[0] + 1, batch[1]))
    params, state = OBJECTIVE.init(key, (X, Y))
    assert shifted.loss(params, state, (X, Y))[0] == OBJECTIVE.loss(params, state, (X, Y))[0]
    _, inner = jax.random.split(key)
    expected = OBJECTIVE.loss(params, state, (X + 1, Y), inner)[0]
    np.testing.assert_allclose(shifted.loss(params, state, (X, Y), key)[0], expected, rtol=1e-6)


def test_transformations_compose_and_the_order_of_pure_ones_does_not_matter(key):
    one = train.rematerialized(train.mixed_precision(OBJECTIVE), segments=3)
    two = train.mixed_precision(train.rematerialized(OBJECTIVE, segments=3))
    a, _ = stepped(one, key)
    b, _ = stepped(two, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), a.params, b.params)


def test_mixed_precision_leaves_the_dtypes_of_the_state(key):
    def apply(params, state, x, key=None):
        return params["w"] * x, {"narrow": state["narrow"] + 1, "wide": x.mean()}

    start = nn.Variables({"w": jnp.ones(())}, {"narrow": jnp.bfloat16(0), "wide": jnp.float32(0)})
    model = nn.Model(lambda key, x: start, apply)
    after = train.supervised(model, losses.squared_error)
    for pair in (
        train.supervised(train.mixed_precision(model), losses.squared_error),
        train.mixed_precision(after),
    ):
        _, (state, _) = pair.loss(*start, (jnp.ones(4), jnp.ones(4)), key)
        assert {name: x.dtype for name, x in state.items()} == {
            "narrow": jnp.bfloat16,
            "wide": jnp.float32,
        }
