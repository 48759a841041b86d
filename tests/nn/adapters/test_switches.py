"""A net never trains in the mode of evaluation because of the name of a flag."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from funcdl import nn

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
TRUE = ["is_train", "training_mode", "enable_dropout", "learn"]
FALSE = ["inference_mode", "eval", "test", "frozen"]


def linen_net(name):
    class Net(linen.Module):
        pass

    def call(self, x, mode):
        return linen.Dropout(0.5, deterministic=not mode)(
            linen.BatchNorm(use_running_average=not mode)(x)
        )

    return with_flag(Net, name, call)()


def with_flag(kind, name, call, default=False, annotation="bool"):
    """A class whose ``__call__`` has an argument of this name, True in training or False."""
    polarity = "" if name in TRUE else "not "
    scope = {"call": call}
    exec(
        f"def __call__(self, x, *, {name}: {annotation} = {default}):\n"
        f"    return call(self, x, {polarity}{name})",
        scope,
    )
    body = (
        {"__call__": linen.compact(scope["__call__"])} if issubclass(kind, linen.Module) else scope
    )
    return type("Net", (kind,), {"__call__": body["__call__"]})


def haiku_net(name):
    def call(self, x, mode):
        y = hk.BatchNorm(True, True, 0.9)(x, mode)
        return hk.dropout(hk.next_rng_key(), 0.5, y) if mode else y

    scope = {"call": call}
    polarity = "" if name in TRUE else "not "
    exec(f"def f(x, {name}=False):\n    return call(None, x, {polarity}{name})", scope)
    return scope["f"]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.drop = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)


def nnx_net(name):
    def call(self, x, mode):
        y = self.norm(x, use_running_average=not mode)
        return self.drop(y, deterministic=not mode)

    return with_flag(Nnx, name, call)


NETS = {
    "linen": (nn.from_linen, linen_net),
    "haiku": (nn.from_haiku, haiku_net),
    "nnx": (nn.from_nnx, nnx_net),
}


@pytest.mark.parametrize("framework", NETS)
@pytest.mark.parametrize("name", TRUE + FALSE)
def test_an_unknown_flag_is_rejected_and_a_switch_sets_it(framework, name):
    adapt, make = NETS[framework]
    net = make(name)
    with pytest.raises(
        TypeError, match=rf"boolean argument '{name}'.*switches=\{{'{name}': True\}}"
    ):
        adapt(net)
    model = adapt(net, switches={name: name in TRUE})
    params, state = model.init(jax.random.key(0), X)
    step = jax.jit(model.apply)
    y, new = step(params, state, X, jax.random.key(1))
    assert 0.2 < np.mean(np.asarray(y) == 0) < 0.8  # dropout is on
    moved = [bool((a != b).any()) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state))]
    assert any(moved)
    y, same = step(params, state, X)
    assert np.all(np.asarray(y) != 0)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(state)):
        np.testing.assert_array_equal(a, b)
    fixed = adapt(net, switches={name: None})  # the default stays, in both modes
    y, _ = fixed.apply(params, state, X, jax.random.key(1))
    is_training = name in FALSE
    assert np.any(np.asarray(y) == 0) == is_training


def equinox_net(annotation, default, name="mode"):
    def call(x, mode, key):
        return eqx.nn.Dropout(0.5)(x, key=key, inference=not mode)

    scope = {"call": call}
    exec(
        f"def __call__(self, x, {name}: {annotation} = {default}, *, key=None):\n"
        f"    return call(x, {'not ' if name == 'inference' else ''}{name}, key)",
        scope,
    )
    body = {"__annotations__": {"w": jax.Array}, "__call__": scope["__call__"]}
    net = type("Net", (eqx.Module,), body)
    return lambda: net(jnp.ones(1))


EQUINOX = {"w": jnp.ones(1)}


@pytest.mark.parametrize("annotation", ["bool", "'bool | None'", "object"])
@pytest.mark.parametrize("default", [False, None])
def test_a_flag_is_known_by_its_default_or_its_annotation(annotation, default):
    net = equinox_net(annotation, default)
    if annotation == "object" and default is None:  # nothing says that it is boolean
        nn.from_equinox(lambda key: net())
        return
    with pytest.raises(TypeError, match=r"boolean argument 'mode'"):
        nn.from_equinox(lambda key: net())
    with pytest.raises(TypeError, match=r"boolean argument 'mode'"):
        nn.split(net())
    for model in (
        nn.from_equinox(lambda key: net(), switches={"mode": True}),
        nn.split(net(), switches={"mode": True})[0],
    ):
        assert np.any(np.asarray(model.apply(EQUINOX, {}, X, jax.random.key(0))[0]) == 0)
        np.testing.assert_array_equal(model.apply(EQUINOX, {}, X)[0], X)


def test_the_convention_of_equinox_is_known():
    model = nn.from_equinox(lambda key: equinox_net("bool", False, "inference")())
    assert np.any(np.asarray(model.apply(EQUINOX, {}, X, jax.random.key(0))[0]) == 0)
    np.testing.assert_array_equal(model.apply(EQUINOX, {}, X)[0], X)


class Field(linen.Module):
    deterministic: bool = True
    is_train: bool = False

    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, deterministic=self.deterministic and not self.is_train)(x)


@pytest.mark.parametrize(
    "switches", [{"deterministic": False}, {"is_train": True, "deterministic": None}]
)
def test_a_field_of_a_module_is_a_switch_too(switches):
    with pytest.raises(TypeError, match=r"Field\(deterministic=True\), which fixes"):
        nn.from_linen(Field())
    model = nn.from_linen(Field(), switches=switches)
    assert np.any(np.asarray(model.apply({}, {}, X, jax.random.key(0))[0]) == 0)
    np.testing.assert_array_equal(model.apply({}, {}, X)[0], X)


@pytest.mark.parametrize(
    ("switches", "kind", "words"),
    [
        (
            {"training": True},
            ValueError,
            r"switches has 'training', but .* has only \['x', 'eval'\]|only",
        ),
    ],
)
def test_switches_that_do_not_fit_are_rejected(switches, kind, words):
    for adapt, make in NETS.values():
        with pytest.raises(kind, match=words):
            adapt(make("eval"), switches=switches)


def test_a_net_with_a_flag_can_still_be_merged():
    net = equinox_net("bool", False)()
    assert nn.merge(net, ({"w": jnp.zeros(1)}, {})).w == 0


ERRORS = {
    "type": lambda x: jnp.concatenate([x, "text"]),
    "shape": lambda x: x @ jnp.ones((7, 2)),
    "name": lambda x: x.no_such_attribute,
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_evaluation_keeps_its_cause(name):
    """An error in the branch of evaluation has nothing to do with keys."""

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train: bool):
            return x if train else ERRORS[name](x)

    with pytest.raises((TypeError, AttributeError)) as failed:
        nn.from_linen(Net()).apply({}, {}, X)
    assert "key is None" not in str(failed.value)


class Noisy(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("dropout"), x.shape)


def test_a_module_that_draws_in_evaluation_is_told_apart():
    with pytest.raises(ValueError, match=r"key is None, .* draws random numbers in evaluation too"):
        nn.from_linen(Noisy()).apply({}, {}, X)
    noisy = nn.from_haiku(lambda x: x + jax.random.normal(hk.next_rng_key(), x.shape))
    with pytest.raises(ValueError, match=r"key is None, .* draws random numbers in evaluation too"):
        noisy.apply({}, {}, X)
