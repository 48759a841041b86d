"""The adapter computes what the module computes; a key means training by any name."""

import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from funcdl import _tree, curvature, nn, train

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)


class Net(linen.Module):
    """Batch norm and dropout, switched by ``train``."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(linen.Dense(4)(x))
        x = linen.Dropout(0.5, deterministic=not train)(jnp.tanh(x))
        return linen.Dense(3)(x)


class Training(linen.Module):
    @linen.compact
    def __call__(self, x, training: bool = False):
        return linen.Dropout(0.5, deterministic=not training)(x)


class Deterministic(linen.Module):
    @linen.compact
    def __call__(self, x, *, deterministic: bool = True):
        return linen.Dropout(0.5, deterministic=deterministic)(x)


class Averaging(linen.Module):
    @linen.compact
    def __call__(self, x, use_running_average: bool):
        return linen.BatchNorm(use_running_average=use_running_average)(x)


class Sowing(linen.Module):
    """Sows into a collection of its own, and keeps none."""

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(2)(x)
        self.sow("intermediates", "hidden", x)
        return x


class Noisy(linen.Module):
    """Draws from a stream that is not dropout's."""

    @linen.compact
    def __call__(self, x, train: bool):
        noise = jax.random.normal(self.make_rng("noise"), x.shape) if train else 0.0
        return linen.Dense(2)(x) + (noise.sum() if train else noise)


class Counter(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        count = self.variable("count", "calls", lambda: jnp.int32(0))
        if train:
            count.value = count.value + 1
        return linen.Dense(2)(x)


MODEL = nn.from_linen(Net())
PARAMS, STATE = MODEL.init(jax.random.key(0), X)
APPLY = jax.jit(MODEL.apply)


def same(a, b):
    chex.assert_trees_all_equal(a, b)


def test_init_is_that_of_the_module_with_keys_split_by_stream(key):
    key_params, key_dropout = jax.random.split(key)
    theirs = Net().init({"params": key_params, "dropout": key_dropout}, X, train=False)
    params, state = MODEL.init(key, X)
    chex.assert_trees_all_close(params, theirs["params"], rtol=1e-6)
    same(state, {"batch_stats": theirs["batch_stats"]})


def test_evaluation_is_that_of_the_module_and_returns_the_state_itself():
    y, state = MODEL.apply(PARAMS, STATE, X)
    same(y, Net().apply({"params": PARAMS, **STATE}, X, train=False))
    assert state is STATE


def test_training_is_that_of_the_module_with_the_key_folded_by_stream(key):
    variables, rngs = {"params": PARAMS, **STATE}, {"dropout": jax.random.fold_in(key, 0)}
    theirs, new = Net().apply(variables, X, train=True, rngs=rngs, mutable=["batch_stats"])
    y, state = MODEL.apply(PARAMS, STATE, X, key)
    same(y, theirs)
    same(state, new)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_the_module(key, training):
    rngs = {"dropout": jax.random.fold_in(key, 0)} if training else {}

    def theirs(params):
        variables = {"params": params, **STATE}
        y, _ = Net().apply(variables, X, train=training, rngs=rngs, mutable=["batch_stats"])
        return (y**2).mean()

    def ours(params):
        return (MODEL.apply(params, STATE, X, key if training else None)[0] ** 2).mean()

    expected = jax.jit(jax.grad(theirs))(PARAMS)
    chex.assert_trees_all_close(jax.jit(jax.grad(ours))(PARAMS), expected, atol=1e-6)


def test_batch_norm_moves_its_state_in_training_only(key):
    hidden = X @ PARAMS["Dense_0"]["kernel"] + PARAMS["Dense_0"]["bias"][None]
    _, state = APPLY(PARAMS, STATE, X, key)
    moved = state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(moved["mean"], 0.1 * hidden.mean(0), atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * hidden.var(0), atol=1e-6)
    assert jnp.abs(APPLY(PARAMS, state, X)[0] - APPLY(PARAMS, STATE, X)[0]).max() > 1e-3


def test_dropout_is_a_function_of_the_key(key):
    first = APPLY(PARAMS, STATE, X, key)[0]
    same(first, APPLY(PARAMS, STATE, X, key)[0])
    assert (first != APPLY(PARAMS, STATE, X, jax.random.key(1))[0]).any()
    same(APPLY(PARAMS, STATE, X)[0], APPLY(PARAMS, STATE, X)[0])


@pytest.mark.parametrize("module", [Training(), Deterministic()])
def test_whatever_the_switch_is_called_a_key_turns_dropout_on(key, module):
    model = nn.from_linen(module)
    same(model.apply({}, {}, X)[0], X)
    y = model.apply({}, {}, X, key)[0]
    assert set(np.unique(np.asarray(y / X).round(4))) == {0.0, 2.0}


@pytest.mark.parametrize("module", [Averaging(), linen.BatchNorm()])
def test_whatever_the_switch_is_called_a_key_turns_batch_statistics_on(key, module):
    model = nn.from_linen(module)
    params, state = model.init(key, X)
    np.testing.assert_allclose(model.apply(params, state, X)[0], X, atol=1e-4)
    y, state = model.apply(params, state, X, key)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    means = [
        leaf for path, leaf in zip(_tree.paths(state), jax.tree.leaves(state)) if "mean" in path
    ]
    np.testing.assert_allclose(means[0], 0.01 * X.mean(0), atol=1e-6)


def test_a_module_without_a_switch_is_the_same_in_training(key):
    model = nn.from_linen(linen.Dense(2))
    params, state = model.init(key, X)
    same(model.apply(params, state, X)[0], model.apply(params, state, X, key)[0])


def test_what_is_sown_is_no_state_and_stays_out_of_the_way(key):
    model = nn.from_linen(Sowing())
    params, state = model.init(key, X)
    assert set(params) == {"Dense_0"}
    y, after = model.apply(params, state, X, key)
    chex.assert_trees_all_equal_structs(state, after)
    same(y, model.apply(params, state, X)[0])
    assert state == {}


def test_other_streams_get_keys_of_their_own(key):
    model = nn.from_linen(Noisy(), streams=("dropout", "noise"))
    params, state = model.init(key, X)
    rngs = {"dropout": jax.random.fold_in(key, 0), "noise": jax.random.fold_in(key, 1)}
    theirs = Noisy().apply({"params": params}, X, train=True, rngs=rngs)
    same(model.apply(params, state, X, key)[0], theirs)


def test_any_collection_is_state(key):
    model = nn.from_linen(Counter())
    params, state = model.init(key, X)
    assert state == {"count": {"calls": 0}}
    for calls in (1, 2):
        _, state = model.apply(params, state, X, key)
        assert state["count"]["calls"] == calls
    assert model.apply(params, state, X)[1]["count"]["calls"] == 2


def test_init_reads_only_shapes(key):
    form = jax.ShapeDtypeStruct(X.shape, X.dtype)
    same(MODEL.init(key, form), MODEL.init(key, X * jnp.nan))
    shapes = jax.eval_shape(MODEL.init, key, form)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, MODEL.init(key, X))


def test_init_inside_a_trace_gives_the_same_numbers(key):
    chex.assert_trees_all_close(jax.jit(MODEL.init)(key, X), MODEL.init(key, X), atol=1e-7)


def test_vmapped_init_and_apply_are_those_of_each_key_and_each_member(key):
    keys = jax.random.split(key, 3)
    members = jax.jit(jax.vmap(MODEL.init, in_axes=(0, None)))(keys, X)
    outputs = jax.jit(jax.vmap(MODEL.apply, in_axes=(0, 0, None, 0)))(*members, X, keys)
    for i in range(3):
        alone = MODEL.init(keys[i], X)
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], members), alone, atol=1e-6)
        y, _ = APPLY(*alone, X, keys[i])
        np.testing.assert_allclose(outputs[0][i], y, atol=1e-5)


def test_the_hessian_is_that_of_the_module(x64):
    x, module = jnp.asarray(X, jnp.float64), linen.Dense(2, param_dtype=jnp.float64)
    model = nn.from_linen(module)
    params, state = model.init(jax.random.key(0), x)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def theirs(p):
        return (jnp.tanh(module.apply({"params": unravel(p)}, x)) ** 2).mean()

    def ours(params, x):
        return (jnp.tanh(model.apply(params, state, x)[0]) ** 2).mean()

    expected = jax.jit(jax.hessian(theirs))(flat)
    dense = jax.jit(lambda params: curvature.hessian(ours, params, x).dense())
    np.testing.assert_allclose(dense(params), expected, atol=1e-12)


def test_many_steps_are_one_trace():
    apply = jax.jit(chex.assert_max_traces(MODEL.apply, 1))
    params, state = PARAMS, STATE
    for step in range(4):
        _, state = apply(params, state, X + step, jax.random.key(step))


def test_two_adapters_of_one_module_are_two_models_that_compute_the_same():
    other = nn.from_linen(Net())
    same(other.apply(PARAMS, STATE, X)[0], MODEL.apply(PARAMS, STATE, X)[0])


def test_a_process_that_only_restored_can_apply(tmp_path):
    train.save(tmp_path, (PARAMS, STATE), step=3)
    np.save(tmp_path / "x.npy", X)
    code = f"""
    import sys
    sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
    import jax, numpy as np
    from test_linen import nn, train, Net
    model = nn.from_linen(Net())
    x = np.load("x.npy")
    form = jax.eval_shape(model.init, jax.random.key(0), x)
    params, state = train.restore(".", tuple(form))
    np.save("y.npy", model.apply(params, state, x)[0])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), MODEL.apply(PARAMS, STATE, X)[0])


class Switched(linen.Module):
    @linen.compact
    def __call__(self, x, is_training=False):
        return linen.Dropout(0.5, deterministic=not is_training)(x) + linen.Dense(3)(x)


def test_is_training_is_a_switch_too():
    model = nn.from_linen(Switched())
    x = jnp.ones((2, 3))
    variables = model.init(jax.random.key(0), x)
    evaluated = model.apply(*variables, x)[0]
    trained = model.apply(*variables, x, jax.random.key(1))[0]
    assert (evaluated != trained).any()


class Greedy(linen.Module):
    @linen.compact
    def __call__(self, x, y):
        return linen.Dense(3)(x + y)


def test_a_second_input_that_no_one_gives_is_refused():
    with pytest.raises(TypeError, match=r"Greedy.__call__ needs \['y'\]"):
        nn.from_linen(Greedy())
