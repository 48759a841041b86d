"""Operators built from outputs and a loss of them, against dense matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import cases
from funcdl import curvature
from funcdl.data import Batches
from nets import nets


def net_of(name):
    net = nets()[name]
    return net._replace(
        params=cases.cast(net.params, jnp.float64), batch=cases.cast(net.batch, jnp.float64)
    )


def dense(net):
    """Return the Jacobian (n, c, p)."""
    flat, unravel = ravel_pytree(net.params)
    jacobian = jax.jit(jax.jacrev(lambda x: net.f(unravel(x), net.batch)))(flat)
    return np.asarray(jacobian).reshape(len(jacobian), -1, flat.size)


@jax.jit
def written_out(operators):
    return [a.dense() for a in operators]


@pytest.mark.parametrize("name", ["layers", "masked tokens"])
@pytest.mark.usefixtures("x64")
def test_jacobian_and_kernel_are_the_dense_ones_and_transposes_of_each_other(name):
    net = net_of(name)
    jacobian = dense(net)
    flat = jacobian.reshape(-1, jacobian.shape[-1])
    two = jax.tree.map(lambda x: x[:2], net.batch)
    few = flat[: 2 * jacobian.shape[1]]
    operators = [
        curvature.jacobian(net.f, net.params, net.batch),
        curvature.jacobian(net.f, net.params, Batches(net.batch, 3)).T,
        curvature.ntk(net.f, net.params, net.batch),
        curvature.ntk(net.f, net.params, Batches(net.batch, 3)),
        curvature.ntk(net.f, net.params, net.batch, two),
        curvature.ntk(net.f, net.params, net.batch, two).T,
    ]
    true = [flat, flat.T, flat @ flat.T, flat @ flat.T, flat @ few.T, few @ flat.T]
    for found, expected in zip(written_out(operators), true):
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.usefixtures("x64")
def test_blocks_are_submatrices():
    net = net_of("layers")
    a = curvature.ggn(net.f, net.head, net.params, net.batch)
    full, block, side = written_out(
        [a, a.block("**/kernel"), a.block("Dense_0/bias", "Dense_1/kernel")]
    )
    index = jax.tree.map(np.asarray, ravel_pytree(net.params)[1](jnp.arange(len(full)) * 1.0))
    at = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(int)
    kernels = at([index[n]["kernel"] for n in ("Dense_0", "Dense_1")])
    np.testing.assert_allclose(block, full[np.ix_(kernels, kernels)], atol=1e-13)
    rows, columns = at(index["Dense_0"]["bias"]), at(index["Dense_1"]["kernel"])
    np.testing.assert_allclose(side, full[np.ix_(rows, columns)], atol=1e-13)


class TestTracing:
    """Equal forms compile once, and captured tracers are leaves."""

    def test_other_parameters_do_not_trace_again(self):
        traces = 0

        @jax.jit
        def product(a, v):
            nonlocal traces
            traces += 1
            return a @ v

        net = nets()["layers"]
        f, head = Partial(net.f), Partial(net.head)
        for scale in (1.0, 2.0):
            params = jax.tree.map(lambda x, s=scale: s * x, net.params)
            product(curvature.ggn(f, head, params, net.batch), params)
        assert traces == 1

    @pytest.mark.usefixtures("x64")
    def test_a_model_may_close_over_a_traced_number(self):
        x, v = jnp.asarray([[1.0, 2.0], [3.0, 0.5]]), jnp.asarray([1.0, -1.0])

        def forms(scale):
            f = lambda w, x: jnp.tanh(scale * (x @ w))[:, None]
            head = lambda z, x: scale * (z**2).mean()
            w = jnp.asarray([0.3, 0.1])
            return jnp.stack(
                [
                    v @ (curvature.ggn(f, head, w, x) @ v),
                    v @ (curvature.fisher_empirical(f, head, w, x) @ v),
                    curvature.ntk(f, w, x).dense().sum(),
                ]
            )

        slope = jax.jit(jax.jacfwd(forms))(1.3)
        h = 1e-4
        differences = (forms(1.3 + h) - forms(1.3 - h)) / (2 * h)
        np.testing.assert_allclose(slope, differences, rtol=1e-6)
