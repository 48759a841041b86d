"""Counts are those of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from frameworks import MLPS
from funcdl import nn


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Dense(7, use_bias=False)(x)
        return linen.Dense(2, use_bias=False)(x)


def test_dense_layers_cost_two_operations_a_weight_and_example_in_each_of_three_products():
    found = nn.summary(nn.from_linen(Net()), jax.ShapeDtypeStruct((5, 3), jnp.float32))
    assert [layer.path for layer in found.layers] == ["Dense_0", "Dense_1"]
    assert [layer.shapes for layer in found.layers] == [{"kernel": (3, 7)}, {"kernel": (7, 2)}]
    assert [layer.parameters for layer in found.layers] == [21, 14]
    assert (found.parameters, found.bytes, found.state_bytes) == (35, 140, 0)
    assert found.forward_flops == 2 * 5 * (21 + 14)
    assert found.gradient_flops == 2 * 5 * (21 + 14) + 2 * 5 * (21 + 14 + 14)  # no input's
    assert found.outputs.shape == (5, 2)


def test_every_framework_is_summed_up():
    for f in MLPS.values():
        variables = jax.eval_shape(f.model.init, jax.random.key(0), f.x)
        found = nn.summary(f.model, f.x)
        assert found.parameters == sum(p.size for p in jax.tree.leaves(variables.params))
        assert found.parameters == sum(layer.parameters for layer in found.layers)
        assert found.bytes == 4 * found.parameters
        assert found.forward_flops < found.gradient_flops
        assert all(layer.path in str(found) for layer in found.layers)


def layers(length, form, inner=1):
    """``inner`` products in each of ``length`` layers, in a loop or one after the other."""

    def layer(x, kernel):
        step = lambda x, _: (jnp.tanh(x @ kernel), None)
        if form == "nested":
            return jax.lax.scan(step, x, None, length=inner)[0], None
        for _ in range(inner):
            x, _ = step(x, None)
        return x, None

    def apply(params, state, x, key=None):
        if form in ("scan", "nested"):
            return jax.lax.scan(layer, x, params)[0], state
        if form == "fori":
            return jax.lax.fori_loop(0, length, lambda i, x: layer(x, params[i])[0], x), state
        if form == "remat":
            return jax.lax.scan(jax.checkpoint(layer), x, params)[0], state
        for kernel in params:
            x, _ = layer(x, kernel)
        return x, state

    return nn.Model(lambda key, x: nn.Variables(jnp.ones((length, 16, 16)), {}), apply)


@pytest.mark.parametrize("length", [1, 2, 12])
@pytest.mark.parametrize("form", ["scan", "nested", "fori", "remat"])
def test_a_loop_costs_as_much_as_its_layers_one_after_the_other(form, length):
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    expected = nn.summary(layers(length, "unrolled", inner=3), x)
    found = nn.summary(layers(length, form, inner=3), x)
    product = 3 * length * 2 * 8 * 16 * 16
    np.testing.assert_allclose(expected.forward_flops, product, rtol=0.05)
    np.testing.assert_allclose(found.forward_flops, product, rtol=0.2)
    more = 4 / 3 if form == "remat" else 1  # the forward pass is repeated
    np.testing.assert_allclose(found.gradient_flops, more * 3 * product, rtol=0.25)


def test_a_loop_of_unknown_length_has_an_unknown_cost():
    def apply(params, state, x, key=None):
        halve = lambda x: x @ params / 2
        return jax.lax.while_loop(lambda x: jnp.abs(x).max() > 1, halve, x), state

    model = nn.Model(lambda key, x: nn.Variables(jnp.eye(4), {}), apply)
    x = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    from funcdl import _cost

    flops = lambda lowered: {"flops": lowered.cost_analysis()["flops"]}
    found = _cost.counted(lambda p, x: model.apply(p, state, x)[0], params, x, analyze=flops)
    assert np.isnan(found["flops"])
