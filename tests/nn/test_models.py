"""Whole networks: their sizes, and the names of their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import _tree, losses, nn
from funcdl.nn.models import MLP, LeNet, SmallCNN

MODELS = {
    "SmallCNN": (SmallCNN(), (8, 8, 1), 13_706),
    "LeNet": (LeNet(), (28, 28, 1), 44_426),
    "LeNet of CIFAR": (LeNet(), (32, 32, 3), 62_006),
    "MLP": (MLP((20, 3)), (8, 8, 1), 64 * 20 + 20 + 20 * 3 + 3),
}


def form(shape):
    return jax.ShapeDtypeStruct((2, *shape), jnp.float32)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_as_many_as_the_layers_say(name, key):
    module, shape, count = MODELS[name]
    params, state = jax.eval_shape(nn.from_linen(module).init, key, form(shape))
    assert _tree.size(params) == count
    assert state == {}


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_gives_a_row_of_logits_an_example(name, key):
    module, shape, _ = MODELS[name]
    model = nn.from_linen(module)
    params, state = jax.eval_shape(model.init, key, form(shape))
    y, _ = jax.eval_shape(model.apply, params, state, form(shape))
    assert y.shape == (2, 3 if name == "MLP" else 10)
    assert y.dtype == jnp.float32


def test_names_are_layer_and_part_and_do_not_change(key):
    """They are the paths of checkpoints and globs: another name breaks what users saved."""
    params = jax.eval_shape(nn.from_linen(SmallCNN()).init, key, form((8, 8, 1))).params
    layers = ["Conv_0", "Conv_1", "MLP_0/Dense_0", "MLP_0/Dense_1"]
    assert _tree.paths(params) == [f"{x}/{part}" for x in layers for part in ("bias", "kernel")]
    params = jax.eval_shape(nn.from_linen(MLP((4, 4, 2))).init, key, form((3,))).params
    assert _tree.paths(params)[::2] == [f"Dense_{i}/bias" for i in range(3)]


def test_fields_set_the_widths(key):
    module = SmallCNN(classes=3, channels=(4, 5), hidden=6)
    params = jax.eval_shape(nn.from_linen(module).init, key, form((8, 8, 2))).params
    shapes = [leaf["kernel"].shape for leaf in (params["Conv_0"], params["Conv_1"])]
    assert shapes == [(3, 3, 2, 4), (3, 3, 4, 5)]
    assert params["MLP_0"]["Dense_0"]["kernel"].shape == (2 * 2 * 5, 6)
    assert params["MLP_0"]["Dense_1"]["kernel"].shape == (6, 3)


def test_an_mlp_is_its_formula(key):
    model = nn.from_linen(MLP((4, 2), activation=jnp.tanh))
    x = jax.random.normal(key, (5, 3))
    params, state = model.init(key, x)
    one, two = params["Dense_0"], params["Dense_1"]
    expected = jnp.tanh(x @ one["kernel"] + one["bias"][None]) @ two["kernel"] + two["bias"][None]
    np.testing.assert_allclose(model.apply(params, state, x)[0], expected, atol=1e-6)


def test_an_example_does_not_see_the_others(key):
    model = nn.from_linen(SmallCNN(channels=(2,), hidden=4))
    x = jax.random.normal(key, (3, 8, 8, 1))
    params, state = model.init(key, x)
    apply = jax.jit(lambda x: model.apply(params, state, x)[0])
    np.testing.assert_allclose(apply(x)[1:2], apply(x[1:2]), atol=1e-6)
    labels = jnp.asarray([0, 1, 2])

    def loss(params):
        return losses.softmax_cross_entropy(model.apply(params, state, x)[0], labels)

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
