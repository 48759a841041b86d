"""Jacobians of flows: their structure, and log-determinants written by hand in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flow_cases import FLOWS, NET, form, fresh, jacobian, moved, point
from funcdl import flows

pytestmark = pytest.mark.usefixtures("x64")


def ready(name):
    flow, shape = FLOWS[name]
    return flow, moved(fresh(name, jnp.float64)), point(shape, jnp.float64)


def test_real_nvp_is_the_loop_of_numpy():
    flow, params, x = ready("real_nvp")
    total, z = 0.0, np.asarray(x)
    for i in range(3):
        first, last = jax.tree.map(lambda a, i=i: a[i], params)
        a, b = z[:2], z[2:]
        h = np.tanh(a @ first["kernel"] + first["bias"])
        s, t = (h @ last["kernel"] + last["bias"]).reshape(2, 3)
        s = 3 * np.tanh(s / 3)
        total, z = total + s.sum(), np.concatenate([b * np.exp(s) + t, a])
    np.testing.assert_allclose(flow.forward(params, x), z, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.slogdet(jacobian(flow, params, x))[1], total, rtol=1e-10)


def test_planar_layers_stretch_by_the_determinant_lemma_and_stay_invertible():
    flow, params, x = ready("planar")
    params["u"] = params["u"] - 5 * params["w"]  # where u itself would fold space
    total, z = 0.0, np.asarray(x)
    for w, u, b in zip(*(params[k] for k in "wub")):
        along = w @ u
        u = u + (np.log1p(np.expm1(1) * np.exp(along)) - 1 - along) * w / (w @ w)
        assert w @ u > -1
        total += np.log(1 + (1 - np.tanh(w @ z + b) ** 2) * (w @ u))
        z = z + u * np.tanh(w @ z + b)
    np.testing.assert_allclose(flow.forward(params, x), z, rtol=1e-12)
    sign, log_det = np.linalg.slogdet(jacobian(flow, params, x))
    np.testing.assert_allclose(log_det, total, rtol=1e-10)
    assert sign == 1


def test_a_1x1_convolution_scales_volume_by_its_diagonal_at_every_pixel():
    flow, params, x = ready("conv1x1")
    log_det = np.linalg.slogdet(jacobian(flow, params, x))[1]
    np.testing.assert_allclose(log_det, 16 * params["log_scale"].sum(), rtol=1e-10)
    lower = np.tril(params["lower"], -1) + np.eye(2)
    upper = np.triu(params["upper"], 1) + np.diag(np.exp(params["log_scale"]))
    np.testing.assert_allclose(flow.forward(params, x), x @ (lower @ upper).T, rtol=1e-12)


@pytest.mark.parametrize("maker", [flows.masked_autoregressive, flows.spline_autoregressive])
def test_the_jacobian_of_an_autoregressive_layer_is_triangular(maker):
    flow = maker(1, 7, 9)
    params = moved(jax.jit(lambda key: flow.init(key, form((4,))))(jax.random.key(0)))
    J = jacobian(flow, params, jnp.linspace(-1, 1, 4))[::-1]  # its reversal undone
    np.testing.assert_array_equal(J, np.tril(J))
    assert (np.abs(J[np.tril_indices(4)]) > 1e-6).all()  # nothing below is cut


def test_the_jacobian_of_a_coupling_has_the_blocks_of_a_coupling():
    flow = flows.neural_spline(1, NET, bins=4)
    params = moved(jax.jit(lambda key: flow.init(key, form((5,))))(jax.random.key(0)))
    J = jacobian(flow, params, jnp.linspace(-1, 1, 5))
    np.testing.assert_array_equal(J[3:], np.eye(2, 5))
    np.testing.assert_array_equal(J[:3, 2:], np.diag(np.diag(J[:3, 2:])))
    assert (np.abs(J[:3, :2]) > 1e-6).all()


def test_squeeze_moves_each_square_into_one_pixel():
    x = np.arange(32.0).reshape(4, 4, 2)
    y = np.asarray(flows.squeeze(jnp.asarray(x)))
    assert y.shape == (2, 2, 8)
    np.testing.assert_array_equal(y[1, 0], x[2:4, 0:2].ravel())


def test_glow_is_its_steps_and_half_the_channels_leave_between_the_levels():
    flow, params, x = ready("glow")
    made_of = flows.actnorm(), flows.conv1x1(), flows.image_coupling(flows.cnn(3))
    step = jax.jit(flows.chain(*made_of).forward)
    y, finished = x, []
    for level, (_, steps) in enumerate(params):
        y = flows.squeeze(y)
        for i in range(2):
            y = step(jax.tree.map(lambda a, i=i: a[i], steps), y)
        if level == 0:
            y, out = y[..., :4], y[..., 4:]
            finished.append(out.ravel())
    z = np.concatenate([*finished, y.ravel()])
    np.testing.assert_allclose(jax.jit(flow.forward)(params, x), z, rtol=1e-9)
