"""Laplacians against the traces of dense Hessians, and against folx where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.autodiff import laplacian

W = cases.normal(3, 3, 4)


def net(x):
    return jnp.tanh(x @ W.astype(x.dtype)).prod()


def with_loops(x):
    def layer(h, w):
        return jnp.tanh(h * w), jax.nn.softplus(h).sum()

    h, sums = jax.lax.scan(layer, x, jnp.linspace(1, 2, 3, dtype=x.dtype))
    h = jax.lax.while_loop(lambda h: h.sum() < 10, lambda h: h + h**2 + 1, h)
    h = jax.lax.cond(h[0] > 0, jnp.sin, jnp.cos, h)
    return jax.checkpoint(jnp.exp)(-h).sum() * jax.nn.logsumexp(sums)


def with_choices(x):
    best = jnp.argmax(x)
    solved = jnp.linalg.solve(jnp.eye(3) + jnp.outer(x, x), x)
    return jnp.where(x > 0, x**3, jnp.sin(x)).sum() + x[best] ** 2 * jnp.sort(x)[1] + solved[0]


FUNCTIONS = {
    "net": net,
    "loops": with_loops,
    "choices": with_choices,
    "constant": lambda x: jnp.ones((), x.dtype),
    "linear": lambda x: x.sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("x64")
def test_it_is_the_trace_of_the_hessian(name):
    f, x = FUNCTIONS[name], jnp.asarray(cases.normal(1, 3))
    expected = jnp.trace(jax.jit(jax.jacfwd(jax.jacfwd(f)))(x))
    np.testing.assert_allclose(laplacian(f)(x), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_trees_in_and_out_in_any_chunks_with_leaves_that_are_no_floats():
    x = {"a": jnp.asarray(cases.normal(0, 2, 2)), "b": jnp.asarray(1.5), "n": jnp.asarray(3)}

    def f(x, scale):
        return {"u": scale * jnp.sin(x["a"]) * x["b"] ** x["n"], "v": (x["a"] ** 2).sum()}

    for chunk in (None, 2):
        got = laplacian(f, chunk=chunk)(x, 0.5)
        expected = 0.5 * jnp.sin(x["a"]) * (6 * x["b"] - x["b"] ** 3)
        np.testing.assert_allclose(got["u"], expected, rtol=1e-13)
        np.testing.assert_allclose(got["v"], 8.0)


@pytest.mark.usefixtures("x64")
def test_the_waves_are_eigenfunctions():
    k, x = jnp.asarray(cases.normal(2, 3)), jnp.asarray(cases.normal(1, 3))
    wave = lambda x: jnp.cos(k @ x)
    np.testing.assert_allclose(laplacian(wave)(x), -(k @ k) * wave(x), rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_it_is_differentiable_to_second_order_mapped_and_compiled():
    f, x = jax.jit(laplacian(lambda x: jnp.sin(x[0]) * x[1] ** 3)), jnp.asarray(cases.normal(1, 2))
    cases.check_second(f, (x,))
    each = jax.vmap(f)(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(each[1], f(2 * x), rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_the_squared_laplacian_is_the_laplacian_of_the_laplacian():
    k, x = jnp.asarray(cases.normal(2, 2)), jnp.asarray(cases.normal(1, 2))
    twice = laplacian(laplacian(lambda x: jnp.cos(k @ x)))(x)
    np.testing.assert_allclose(twice, (k @ k) ** 2 * jnp.cos(k @ x), rtol=1e-12)


def test_a_function_is_traced_once_for_all_calls():
    traces = []

    def f(x, scale):
        traces.append(0)
        return scale * (x**3).sum()

    first = laplacian(f)(jnp.ones(2), 1.0)
    before = len(traces)
    np.testing.assert_allclose(laplacian(f)(jnp.ones(2), 2.0), 2 * first)
    assert len(traces) == before


def test_folx_agrees():
    folx = pytest.importorskip("folx")
    x = jnp.asarray(cases.normal(1, 3), jnp.float32)
    with jax.numpy_rank_promotion("allow"):
        theirs = folx.ForwardLaplacianOperator(0.0)(net)(x)[0]
    np.testing.assert_allclose(laplacian(net)(x), theirs, rtol=1e-5)
