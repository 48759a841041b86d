"""What is lost to float32 and to bfloat16: the tolerances that docs/curvature.md states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import curvature, losses, operators

KEY = jax.random.key(0)
PARAMS = {"v": cases.normal(0, 4, 3), "w": cases.normal(1, 5, 4), "b": cases.normal(2, 4)}
BATCH = cases.normal(3, 20, 5), np.arange(20) % 3
# of matrices, relative to the largest entry, and of eigenpairs, the tolerance of their residuals
WITHIN = {jnp.float32: (2e-6, 1e-3), jnp.bfloat16: (4e-2, 2e-2)}


def f(params, batch):
    hidden = jnp.tanh(jnp.matmul(batch[0], params["w"]) + params["b"][None])
    return jnp.matmul(hidden, params["v"])


def head(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def loss(params, batch):
    return head(f(params, batch), batch)


def rounded(dtype):
    """Return numbers that bfloat16 holds, so that what differs is the arithmetic alone."""
    low = cases.cast((PARAMS, BATCH), jnp.bfloat16)
    real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(lambda x: x.astype(dtype) if real(x) else x, low)


@functools.partial(jax.jit, static_argnums=2)
def numbers(params, batch, tol):
    args = f, head, params, batch
    matrices = {
        "hessian": curvature.hessian(loss, params, batch),
        "ggn": curvature.ggn(*args),
        "fisher_empirical": curvature.fisher_empirical(*args),
        "kfac": curvature.kfac(*args),
    }
    pairs = operators.eigsh(matrices["hessian"], 2, key=KEY, which="LA", tol=tol)
    return {name: a.dense() for name, a in matrices.items()}, pairs


@pytest.mark.parametrize("dtype", WITHIN)
def test_matrices_and_eigenpairs_are_right_to_the_precision_of_the_parameters(dtype):
    within, tol = WITHIN[dtype]
    with jax.enable_x64(True):
        exact, reference = jax.tree.map(np.asarray, numbers(*rounded(jnp.float64), 1e-6))
    found, pairs = numbers(*rounded(dtype), tol)
    for name, expected in exact.items():
        atol = within * np.abs(expected).max()
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=atol, err_msg=name)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, reference.values, rtol=tol)


@pytest.mark.parametrize("dtype", WITHIN)
def test_vectors_and_evidence_are_float32_whatever_the_parameters_are(dtype):
    def solved(params, batch):
        hessian = curvature.hessian(loss, params, batch)
        start = jax.tree.map(lambda x: jnp.ones(x.shape), hessian.shape_in)
        return (
            hessian @ start,
            operators.eigsh(hessian, 2, key=KEY),
            operators.leading_eigenpair(hessian, start, steps=3),
            operators.trace(hessian, key=KEY, probes=4),
            operators.spectral_density(hessian, key=KEY, probes=2, steps=3),
            operators.cg(curvature.ggn(f, head, params, batch).shift(0.1), start),
            curvature.kfac(f, head, params, batch).inv(0.1) @ start,
        )

    found = jax.tree.leaves(jax.eval_shape(solved, *rounded(dtype)))
    floats = {x.dtype for x in found if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats == {np.dtype(jnp.float32)}
