"""Flows of every kind keep their contract: forms, a start that does nothing, a context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flow_cases import CONTEXT, FLOWS, WITHOUT_CONTEXT, form, fresh, moved, point
from funcdl import flows


def signature(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", FLOWS)
def test_init_reads_shapes_only_and_the_dtype_follows(name, dtype):
    flow, shape = FLOWS[name]
    x, context = form(shape, dtype), form(CONTEXT, dtype)
    params = jax.eval_shape(lambda key: flow.init(key, x, context), jax.random.key(0))
    real = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (x, context))
    from_arrays = jax.eval_shape(lambda key: flow.init(key, *real), jax.random.key(0))
    assert signature(params) == signature(from_arrays)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    z = jax.eval_shape(flow.forward, params, x, context)
    assert (z.size, z.dtype) == (np.prod(shape), dtype)


@pytest.mark.parametrize("name", FLOWS)
def test_a_fresh_flow_only_moves_numbers_and_a_context_has_effect(name):
    flow, shape = FLOWS[name]
    params = fresh(name, conditional=True)
    x, context = point((2, *shape)), point(CONTEXT)
    traced = []

    @jax.jit
    def forward(params, x, context):
        traced.append(name)
        return jax.vmap(flow.forward, in_axes=(None, 0, None))(params, x, context)

    start = forward(params, x, context)
    np.testing.assert_allclose(np.sort(start.ravel()), np.sort(x.ravel()), atol=2e-6)
    here, there = (forward(moved(params), x, c) for c in (context, -context))
    assert jnp.isfinite(here).all()
    assert (jnp.abs(here - there).max() > 1e-3) == (name not in WITHOUT_CONTEXT)
    assert traced == [name]


def test_a_chain_of_maps_is_their_composition_and_a_repeat_a_loop():
    double = flows.Flow(
        init=lambda key, x, context=None: {"by": jnp.ones(x.shape)},
        forward=lambda params, x, context=None: x * params["by"],
    )
    flow = flows.chain(flows.repeat(double, 3), flows.from_function(jnp.exp))
    by = jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert signature(flow.init(jax.random.key(0), by[0])) == signature(({"by": by}, ()))
    z = flow.forward(({"by": by}, ()), jnp.asarray([0.1, 0.05]))
    np.testing.assert_allclose(z, np.exp([1.5, 2.4]), rtol=1e-6)


def test_the_members_of_a_repeat_are_drawn_apart():
    kernels = fresh("real_nvp")[0]["kernel"]
    assert kernels.shape == (3, 2, 8)
    assert len(np.unique(kernels)) == kernels.size


def test_the_standard_normal_is_that_of_scipy_and_of_its_samples(key):
    x = {"a": point((2, 3)), "b": point(())}
    expected = sum(jax.scipy.stats.norm.logpdf(leaf).sum() for leaf in x.values())
    np.testing.assert_allclose(flows.standard_normal(x), expected, rtol=1e-6)
    draws = jax.vmap(lambda key: flows.sample_standard_normal(key, x))(jax.random.split(key, 4000))
    numbers = np.concatenate(
        [np.asarray(leaf).reshape(4000, -1) for leaf in draws.values()], axis=1
    )
    np.testing.assert_allclose(np.cov(numbers.T), np.eye(7), atol=0.1)
    np.testing.assert_allclose(numbers.mean(axis=0), 0, atol=0.1)
