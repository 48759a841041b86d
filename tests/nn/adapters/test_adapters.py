"""One protocol for every framework: what the adapter computes is what the framework computes."""

import functools
import sys

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cases
from frameworks import MLPS, by_path, close, cnns, doubled, given, same
from funcdl import _tree, nn

NETS = {**MLPS, **{f"{name}, cnn": f for name, f in cnns().items()}}
OFTEN = ("linen", "nnx", "equinox", "haiku", "nnx, cnn", "equinox, cnn")
every = pytest.mark.parametrize("name", cases.often(NETS, OFTEN))
simple = pytest.mark.parametrize("name", MLPS)


@functools.cache
def pairs(name: str) -> dict:
    """What the adapter computes of a net beside what the framework does, in float64."""
    f = NETS[name]
    with jax.enable_x64(True):
        net, variables = given(f)
        variables = doubled(variables)
        net, (key, other) = nn.merge(net, variables), jax.random.split(jax.random.key(1))
        model, own = nn.split(net)
        moved = jax.tree.map(lambda a: a + 0.5 if a.dtype.kind == "f" else a, own)
        new = nn.merge(net, moved)

        def loss(params):
            y, state = f.model.apply(params, variables.state, f.x, key)
            return (y**2).mean(), (y, by_path(state))

        def both():
            evaluated, after = f.model.apply(*variables, f.x)
            assert after is variables.state
            gradient, (y, state) = jax.grad(loss, has_aux=True)(variables.params)
            their_y, their_state = f.train(net, key)
            return {
                "evaluated": (evaluated, f.evaluate(net)),
                "trained": (y, their_y),
                "state": (state, {at: their_state[at] for at in state}),
                "gradient": (by_path(gradient), f.grad(net, key)),
                "split": (model.apply(*moved, f.x)[0], f.evaluate(new)),
                "other key": (model.apply(*own, f.x, other)[0], y),
                "old state": (by_path(own.state), state),
                "numbers": (by_path(own), by_path(variables)),
                "given": (by_path(nn.split(new)[1]), by_path(moved)),
            }

        return jax.device_get(jax.jit(both)())


@every
@pytest.mark.parametrize("what", ["evaluated", "trained", "state"])
def test_outputs_and_state_are_those_of_the_framework(name, what):
    close(*pairs(name)[what])


@every
def test_gradients_are_those_of_the_framework(name):
    close(*pairs(name)["gradient"])


@every
@pytest.mark.parametrize("what", ["numbers", "split", "given"])
def test_a_net_is_split_with_its_numbers_and_given_others(name, what):
    close(*pairs(name)[what])


@every
def test_a_key_moves_the_state_and_names_the_draw(name):
    other, y = pairs(name)["other key"]
    assert (other != y).any()
    old, new = pairs(name)["old state"]
    assert any((old[path] != new[path]).any() for path in old)


@simple
def test_a_split_net_starts_from_copies_of_its_numbers_whatever_the_key(name):
    f = MLPS[name]
    model, own = nn.split(given(f)[0])
    start = model.init(jax.random.key(7), f.x)
    same(start, own)
    jax.jit(lambda variables: variables, donate_argnums=0)(start)  # deletes what it was given
    same(model.init(jax.random.key(8), f.x), own)


@simple
def test_init_reads_only_shapes(name, key):
    f = MLPS[name]
    form = jax.eval_shape(lambda: jnp.asarray(f.x))
    variables = f.model.init(key, form)
    same(variables, f.model.init(key, f.x * jnp.nan))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(f.model.init, key, form), variables
    )
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(variables))


@simple
def test_variables_are_nested_dicts_of_arrays_with_names_that_sort(name):
    f = MLPS[name]

    def check(tree):
        assert type(tree) is dict or isinstance(tree, jax.Array)
        if type(tree) is dict:
            assert all(type(name) is str for name in tree)
            list(map(check, tree.values()))

    _, (params, state) = given(f)
    check(params)
    check(state)
    _tree.check_floating(params, "params")
    assert not any(jnp.issubdtype(a.dtype, jax.dtypes.prng_key) for a in jax.tree.leaves(state))


def test_a_layer_used_twice_has_its_numbers_once():
    net, (params, state) = given(MLPS["nnx"])
    assert set(params) == {"again", "layers", "norm"}
    assert set(params["layers"]) == {"0", "2"}
    shared = params["again"]["kernel"]
    net = nn.merge(net, (params, state))
    assert net.again is net.layers[1]
    same(net.layers[1].kernel[...], shared)


def test_each_stream_of_nnx_draws_from_a_key_of_its_own(key):
    class Two(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return jnp.stack([self.a(x), self.b(x)]) * self.scale

    model = nn.from_nnx(Two)
    params, state = model.init(key, None)
    assert state == {}
    a, b = model.apply(params, state, jnp.ones((8, 8)), key)[0]
    assert (a != b).any()


def test_a_call_of_nnx_takes_switches_and_streams_as_arguments(key):
    class Net(nnx.Module):
        def __init__(self, rngs):  # noqa: ARG002
            self.dropout, self.scale = nnx.Dropout(0.5), nnx.Param(jnp.ones(()))

        def __call__(self, x, train: bool, rngs: nnx.Rngs):
            return self.scale * (self.dropout(x, rngs=rngs) + 3 * train)

    model = nn.from_nnx(Net)
    params, state = model.init(key, None)
    same(model.apply(params, state, jnp.ones((2, 2)))[0], jnp.ones((2, 2)))
    y, _ = model.apply(params, state, jnp.ones((9, 9)), key)
    assert set(np.unique(y)) == {3.0, 5.0}


def test_what_a_call_of_nnx_adds_is_no_state(key):
    class Sowing(nnx.Module):
        def __init__(self, rngs):
            self.out = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            self.hidden = nnx.Intermediate(x)
            return self.out(x)

    model = nn.from_nnx(Sowing)
    params, state = model.init(key, None)
    assert state == model.apply(params, state, jnp.ones((1, 3)), key)[1] == {}


def test_an_equinox_net_without_state_or_key_is_a_vmap(key):
    model = nn.from_equinox(lambda key: eqx.nn.MLP(3, 2, 4, 1, key=key))
    params, state = model.init(key, None)
    x = jnp.ones((5, 3))
    theirs = jax.vmap(eqx.nn.MLP(3, 2, 4, 1, key=key))(x)
    for now in (None, key):
        np.testing.assert_allclose(model.apply(params, state, x, now)[0], theirs, atol=1e-6)
    assert state == {}


def test_a_part_of_an_equinox_net_is_split_with_its_part_of_the_state():
    (module, state), _ = given(MLPS["equinox"])
    _, variables = nn.split((module.norm, state))
    assert _tree.paths(variables.state) == [
        "batch_counter",
        "batch_state_index/0",
        "batch_state_index/1",
    ]


def test_a_haiku_function_without_state_is_split_and_given_numbers(key):
    import haiku as hk

    transformed = hk.transform(lambda x: hk.Linear(2)(x))
    x = jnp.ones((4, 3))
    params = transformed.init(key, x)
    model, variables = nn.split((transformed, params))
    same(model.apply(*variables, x)[0], transformed.apply(params, None, x))
    again, moved = nn.merge((transformed, params), (jax.tree.map(jnp.zeros_like, params), {}))
    assert again is transformed
    same(again.apply(moved, None, x), jnp.zeros((4, 2)))


def test_keys_that_a_net_holds_are_state(key):
    class Fourier(eqx.Module):
        key: jax.Array
        scale: jax.Array

        def __call__(self, x):
            return self.scale * x + jax.random.normal(self.key, x.shape)

    net = Fourier(key, jnp.ones(2))
    model, variables = nn.split(net)
    y = model.apply(*model.init(jax.random.key(3), None), jnp.zeros((2, 2)))[0]
    same(y, jnp.broadcast_to(jax.random.normal(key, (2,)), (2, 2)))
    assert _tree.paths(variables.state) == ["key"]


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("equinox", "equinox", lambda: nn.from_equinox(len)),
        ("haiku", "haiku", lambda: nn.from_haiku(len)),
        ("safetensors.numpy", "checkpoint", lambda: nn.save_safetensors("net", {})),
        ("flatbuffers", "export", lambda: nn.load_export("net")),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(package, extra, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package.split('.')[0]}.*funcdl\[{extra}\]"):
        call()
