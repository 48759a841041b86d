"""Multiplying a loss by a number scales its curvature and what is computed from that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import curvature, losses, operators
from funcdl import per_example as each

KEY = jax.random.key(0)
DTYPES = [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]
# squares of gradients are of degree 2
POWERS = {jnp.float32: (-30, -15, 15, 30), jnp.float64: (-280, -140, 140, 280)}
PARAMS = [cases.normal(0, 3, 4) / 2, cases.normal(1, 4, 3) / 2]
X, LABELS = cases.normal(2, 6, 3), np.asarray([0, 1, 2, 0, 1, 2])


def model(params, batch):
    return jnp.tanh(batch[0] @ params[0]) @ params[1]


def of_outputs(c):
    """The loss of the outputs in a unit, which is applied to the mean."""
    return lambda z, batch: c * losses.softmax_cross_entropy(z, batch[1])


def of_params(c):
    return lambda params, batch: of_outputs(c)(model(params, batch), batch)


def dense(A):
    return A.dense()


# name: (function(params, batch, c), degree in c)
CURVATURE = {
    "hessian": (lambda p, b, c: dense(curvature.hessian(of_params(c), p, b)), 1),
    "ggn": (lambda p, b, c: dense(curvature.ggn(model, of_outputs(c), p, b)), 1),
    "fisher_empirical": (
        lambda p, b, c: dense(curvature.fisher_empirical(model, of_outputs(c), p, b)),
        2,
    ),
    "kfac": (lambda p, b, c: dense(curvature.kfac(model, of_outputs(c), p, b)), 1),
    "inverse of kfac": (
        lambda p, b, c: dense(curvature.kfac(model, of_outputs(c), p, b).inv(damping=c)),
        -1,
    ),
    "ekfac": (lambda p, b, c: dense(curvature.ekfac(model, of_outputs(c), p, b)), 1),
    "inverse of ekfac": (
        lambda p, b, c: dense(curvature.ekfac(model, of_outputs(c), p, b).inv(damping=c)),
        -1,
    ),
    "sharpness": (
        lambda p, b, c: curvature.sharpness(of_params(c), p, b, key=KEY, tol=1e-5).values,
        1,
    ),
    "trace": (
        lambda p, b, c: operators.trace(curvature.hessian(of_params(c), p, b), key=KEY, probes=3)[
            :2
        ],
        1,
    ),
    "solution": (
        lambda p, b, c: (
            operators.solve(
                curvature.ggn(model, of_outputs(c), p, b).shift(c), jax.grad(of_params(c))(p, b)
            ).x
        ),
        0,
    ),
    "noise_scale": (lambda p, b, c: curvature.noise_scale(of_params(c), p, b)[:2], 0),
    "worst_loss": (
        lambda p, b, c: curvature.worst_loss(of_params(c), p, b, radius=0.1, key=KEY).value,
        1,
    ),
    "displacement": (
        lambda p, b, c: curvature.worst_loss(of_params(c), p, b, radius=0.1, key=KEY).displacement,
        0,
    ),
    "grad_norm": (lambda p, b, c: each.grad_norm(of_params(c))(p, b), 1),
    "grad_second_moment": (lambda p, b, c: each.grad_second_moment(of_params(c))(p, b), 2),
    "gram": (lambda p, b, c: each.gram(of_params(c))(p, b), 2),
    "clipped": (lambda p, b, c: each.clipped_grad(of_params(c), c * 0.5)(p, b), 1),
    "ggn_diagonal": (lambda p, b, c: each.ggn_diagonal(model, of_outputs(c))(p, b), 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CURVATURE)
def test_it_scales_with_the_loss(name, dtype):
    f, degree = CURVATURE[name]
    with jax.enable_x64(dtype == jnp.float64):
        params = [jnp.asarray(p, dtype) for p in PARAMS]
        batch = jnp.asarray(X, dtype), jnp.asarray(LABELS)
        found_at = jax.jit(lambda c: f(params, batch, c))
        right = jax.tree.leaves(found_at(jnp.ones((), dtype)))
        for k in POWERS[dtype]:
            if abs(k * degree) > 0.9 * np.log10(jnp.finfo(dtype).max):
                continue
            for ours, x in zip(jax.tree.leaves(found_at(jnp.asarray(10.0**k, dtype))), right):
                scaled = np.asarray(ours, np.longdouble) / np.longdouble(10) ** (k * degree)
                tolerance = 2e-3 * np.abs(x).max()
                np.testing.assert_allclose(scaled, x, rtol=2e-3, atol=tolerance, err_msg=f"1e{k}")
