"""Operators over streams: the operator of the data in memory, whatever the split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

import cases
from funcdl import curvature
from funcdl.losses import Mean

X, Y = np.float32(cases.normal(0, 11, 3)), np.float32(cases.normal(1, 11))
PARAMS = {"w": jnp.asarray(cases.normal(2, 3), jnp.float32), "b": jnp.float32(0.3)}
V = {"w": jnp.asarray(cases.normal(3, 3), jnp.float32), "b": jnp.float32(-1.0)}


class Loader:
    """Batches of a size, in another order at each pass."""

    def __init__(self, size, noise=0.0, drop=False, deal=False):
        self.size, self.noise, self.drop, self.deal, self.passes = size, noise, drop, deal, 0

    def __iter__(self):
        order = np.random.default_rng(self.passes).permutation(11)
        rows = order[: 8 if self.drop and self.passes else 11]
        y = np.roll(Y, self.passes) if self.deal else Y
        scale, self.passes = np.float32(1 + self.noise * self.passes), self.passes + 1
        for i in range(0, len(rows), self.size):
            part = rows[i : i + self.size]
            yield scale * X[part], y[part]


def f(params, batch):
    return jnp.tanh(jnp.matmul(batch[0], params["w"]) + params["b"])


def loss(z, batch):
    weight = 1 + batch[1] ** 2  # examples of unequal weight
    return Mean((weight * (z - batch[1]) ** 2).sum(), weight.sum())


def whole(params, batch):
    return loss(f(params, batch), batch)


def draw(key, z, batch):
    x, y = batch
    return x[None], (z + jax.random.normal(key, y.shape))[None]


BUILDERS = {
    "hessian": lambda data: curvature.hessian(whole, PARAMS, data),
    "ggn": lambda data: curvature.ggn(f, loss, PARAMS, data),
    "empirical": lambda data: curvature.fisher_empirical(f, loss, PARAMS, data),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_products_and_blocks_are_those_of_the_data_in_memory(name):
    known = BUILDERS[name]((jnp.asarray(X), jnp.asarray(Y)))
    A = BUILDERS[name](Loader(4))
    assert A.symmetric
    assert A.psd == known.psd
    for found, expected in ((A @ V, known @ V), (A.T @ V, known @ V)):
        for leaf in V:
            np.testing.assert_allclose(found[leaf], expected[leaf], rtol=1e-5, atol=1e-6)
    w = {"w": V["w"], "b": None}
    found, expected = A.block("w") @ w, known.block("w") @ w
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5, atol=1e-6)
    assert found["b"] is None


def test_outcomes_are_drawn_by_place_in_the_stream():
    class Ordered(Loader):
        def __iter__(self):
            yield from ((X[i : i + self.size], Y[i : i + self.size]) for i in (0, 4, 8))

    make = lambda data: curvature.fisher_mc(f, loss, PARAMS, data, key=jax.random.key(0), draw=draw)
    found, expected = make(Ordered(4)) @ V, make((jnp.asarray(X), jnp.asarray(Y))) @ V
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5, atol=1e-6)


def test_scipy_finds_its_eigenvalues():
    A = BUILDERS["hessian"](Loader(5))
    values = scipy.sparse.linalg.eigsh(A.as_scipy(), 2, which="LA", return_eigenvectors=False)
    known = BUILDERS["hessian"]((jnp.asarray(X), jnp.asarray(Y))).dense()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(known)[-2:], rtol=1e-4)


def test_data_that_changes_between_passes_is_refused():
    for loader, words in (
        (Loader(4, noise=1e-3), "a sum over it was"),
        (Loader(4, deal=True), "a sum over it was"),  # the same numbers, other pairs
        (Loader(4, drop=True), "11 examples first, now 8"),
    ):
        A = BUILDERS["hessian"](loader)  # reads the first batch
        loader.passes = 0
        _ = A @ V
        with pytest.raises(ValueError, match=f"data changes between passes: .*{words}"):
            _ = A @ V


def test_a_product_that_is_traced_is_refused():
    A = BUILDERS["hessian"](Loader(4))
    with pytest.raises(TypeError, match="v in A @ v is traced, but A reads a stream"):
        jax.jit(lambda v: A @ v)(V)


def test_a_stream_that_cannot_start_again_or_is_empty_is_refused():
    with pytest.raises(TypeError, match="generator, which can be read only once"):
        BUILDERS["hessian"](batch for batch in Loader(4))

    class Empty:
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="data has no examples"):
        BUILDERS["hessian"](Empty())
