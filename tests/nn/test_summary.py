"""Counts are those of the formula."""

import jax
import jax.numpy as jnp
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
