"""Kernels and Gauss-Newton diagonals of nets of every kind, against dense Jacobians in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl import _batching, _mean, per_example
from nets import nets

NAMES = list(nets())


def floats(params):
    """Return the flat vector of the leaves of floats, and the way back."""
    leaves, treedef = jax.tree.flatten(params)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
    flat, unravel = ravel_pytree([x for x, r in zip(leaves, real) if r])

    def back(flat):
        new = iter(unravel(flat))
        return treedef.unflatten([next(new) if r else x for x, r in zip(leaves, real)])

    return flat, back


def dense(name):
    """Return a net in float64, its Jacobian (n, c, p), and weighted Hessians (n, c, c)."""
    net = nets()[name]
    net = net._replace(
        params=cases.cast(net.params, jnp.float64), batch=cases.cast(net.batch, jnp.float64)
    )
    flat, back = floats(net.params)

    def one(batch):
        z = lambda x: net.f(back(x), batch).reshape(-1)
        shape = net.f(net.params, batch).shape

        def total(z):
            mean = _mean.weighted(net.head(z.reshape(shape), batch), batch)
            return mean.total, mean.weight

        bend, weight = jax.hessian(total, has_aux=True)(z(flat))
        return jax.jacrev(z)(flat), bend, weight

    found = jax.jit(lambda batch: _batching.one_by_one(one, batch))(net.batch)
    return net, *map(np.asarray, found)


def raveled(tree):
    return np.asarray(floats(tree)[0])


@pytest.mark.parametrize("name", cases.often(NAMES, ("layers", "odd", "masked tokens")))
@pytest.mark.usefixtures("x64")
def test_they_are_what_the_dense_jacobian_says(name):
    net, jacobian, bend, weight = dense(name)
    other = jax.tree.map(lambda x: x[:2], net.batch)
    gram, cross, diagonal = jax.jit(
        lambda params, batch, other: (
            per_example.jacobian_gram(net.f)(params, batch),
            per_example.jacobian_gram(net.f)(params, batch, other),
            per_example.ggn_diagonal(net.f, net.head)(params, batch),
        )
    )(net.params, net.batch, other)
    expected = np.einsum("icp,jdp->icjd", jacobian, jacobian)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gram, expected, atol=1e-11 * scale)
    np.testing.assert_allclose(cross, expected[:, :, :2], atol=1e-11 * scale)
    expected = np.einsum("icp,icd,idp->p", jacobian, bend, jacobian) / weight.sum()
    np.testing.assert_allclose(raveled(diagonal), expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_the_dense_ones_also_where_eigenvalues_of_the_bend_are_tied():
    def f(w, batch):
        return jnp.tanh(jnp.matmul(batch[0], w))

    def head(z, batch):
        # softmax of equal logits: its Hessian has one eigenvalue twice
        return (jax.nn.logsumexp(z * batch[1][:, None], axis=1)).mean()

    w, batch = jnp.zeros((2, 3)), (jnp.asarray([[1.0, 2.0], [0.5, -1.0]]), jnp.ones(2))

    def plain(w):
        jacobian = jax.jacrev(lambda w: f(w, batch))(w).reshape(2, 3, -1)
        bend = jax.vmap(lambda z: jax.hessian(lambda z: head(z[None], (None, jnp.ones(1))))(z))
        return jnp.einsum("icp,icd,idp->p", jacobian, bend(f(w, batch)), jacobian) / 2

    ours = lambda w: per_example.ggn_diagonal(f, head)(w, batch).reshape(-1)
    v = jnp.asarray(cases.normal(0, 2, 3))
    first = lambda f: jax.jvp(f, (w,), (v,))[1]
    both = lambda f: jax.jvp(jax.jacrev(f), (w,), (v,))
    transforms = jax.jit(lambda: [(first(f), *both(f)) for f in (ours, plain)])
    for found, expected in zip(*transforms()):
        np.testing.assert_allclose(found, expected, atol=1e-11)
