"""Flows are inverted at every point, whatever the batch, and splines without iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flow_cases import form
from funcdl import density, flows

NET = flows.mlp(16)
FLOWS = {
    "neural_spline, 2": (flows.neural_spline(4, NET), 2),
    "neural_spline, 8": (flows.neural_spline(4, NET), 8),
    "spline_autoregressive, 3": (flows.spline_autoregressive(2, 16), 3),
    "masked_autoregressive, 3": (flows.masked_autoregressive(2, 16), 3),
}


def drawn(name):
    """Parameters as far from their start as those of a trained flow."""
    flow, d = FLOWS[name]
    params = flow.init(jax.random.key(0), form((d,)))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [0.15 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
    return flow, d, jax.tree.unflatten(treedef, [a + b for a, b in zip(leaves, noise)])


@pytest.mark.parametrize("name", FLOWS)
def test_no_point_is_nan_and_the_batch_changes_nothing(name):
    flow, d, params = drawn(name)
    z = jax.random.normal(jax.random.key(2), (1000, d))
    undo = jax.jit(jax.vmap(density.inverse(lambda x: flow.forward(params, x))))
    x = undo(z)
    assert np.isfinite(x).all()
    again = jax.vmap(flow.forward, (None, 0))(params, x)
    assert np.abs(again - z).mean() < 1e-3
    np.testing.assert_allclose(undo(z[:7]), x[:7], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_spline_coupling_is_inverted_in_closed_form(layers):
    flow = flows.neural_spline(layers, NET)
    params = flow.init(jax.random.key(0), form((4,)))
    undo = density.inverse(lambda z: flow.forward(params, z))
    assert "while" not in str(jax.make_jaxpr(undo)(jnp.ones(4)))
    assert "[0.3" in str(undo(jnp.full(4, 0.3)))
