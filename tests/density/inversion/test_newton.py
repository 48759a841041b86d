"""Newton steps find the roots that propagation cannot, with implicit derivatives, or say NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import density

W = cases.normal(0, 4, 4)
MAPS = {
    "one number each": lambda x: x + 0.5 * jnp.tanh(x),
    "steep": lambda x: x + x**3,
    "saturated": lambda x: jnp.tanh(x) + 1e-2 * x,
    "triangular": lambda x: x + 0.5 * jnp.tanh(np.tril(W) @ x) * 0.2,
    "dense": lambda x: x + 0.1 * jnp.tanh(W @ x),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_root_and_its_derivative(name, x64):
    f, x = MAPS[name], jnp.asarray(cases.normal(1, 4))
    inverse = density.inverse(f)
    found, jacobian = jax.jit(lambda y: (inverse(y), jax.jacfwd(inverse)(y)))(f(x))
    np.testing.assert_allclose(found, x, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(jacobian, jnp.linalg.inv(jax.jacfwd(f)(x)), rtol=1e-6, atol=1e-9)


def test_what_has_no_root_is_nan():
    f = lambda x: jnp.exp(x) + jnp.exp(2 * x)
    assert jnp.isnan(density.inverse(f)(jnp.array([-1.0, 2.0]))).any()


@pytest.mark.parametrize("copies", [1, 2, 51, 64])
def test_copies_of_a_point_have_the_same_inverse(copies):
    f = lambda x: x + jnp.tanh(3 * x) + 2
    x = jnp.repeat(jnp.asarray([0.7, -2.0, 1e-3, 30.0], jnp.float32), copies)
    found = density.inverse(f)(f(x))
    np.testing.assert_allclose(found, x, rtol=2e-5, atol=1e-6)


def test_a_number_without_a_root_is_nan_alone():
    f = lambda x: jnp.exp(x) + jnp.exp(2 * x)
    found = density.inverse(f)(jnp.array([-1.0, 2.0, 6.0]))
    np.testing.assert_allclose(found, [np.nan, 0.0, np.log(2)], atol=1e-6)
    pairs = lambda x: jax.vmap(lambda z: jnp.exp(z) + 0.1 * jnp.exp(z[::-1]))(x)
    found = density.inverse(pairs)(jnp.array([[-1.0, 2.0], [1.1, 1.1]]))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], [0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_root_near_zero_of_large_terms_is_found_in_all_units(scale):
    f = lambda x: scale * (jnp.sinh(3 + x / scale) - np.sinh(3.0) + x / scale)
    x = scale * jnp.asarray([1e-4, -1e-5, 0.0, 1e-7, 0.5], jnp.float32)
    found = jax.jit(jax.vmap(density.inverse(f)))(f(x))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(f(found), f(x), atol=1e-5 * scale)


STEEP = {
    "stairs": lambda x: x + 0.999 * jnp.sin(x),
    "nearly flat": lambda x: jnp.tanh(x) ** 3 + 1e-3 * x,
    "cubic": lambda x: x**3 + 1e-3 * x,
    "two scales": lambda x: jax.nn.softplus(50 * x) + 1e-2 * x,
}


@pytest.mark.parametrize("name", STEEP)
def test_a_bracket_leads_to_every_root(name):
    f = STEEP[name]
    x = jnp.linspace(-12, 12, 97)
    y = f(x)
    found = density.inverse(f)(y)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(f(found), y, rtol=1e-4, atol=1e-5)


MATRICES = {
    "times its determinant": lambda a: a * jnp.abs(jnp.linalg.det(a)),
    "cubed": lambda a: a @ a.T @ a,
    "times its trace": lambda a: a * (1 + (a * a).sum()),
}


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", MATRICES)
def test_matrices_are_found_though_constants_are_singular(name, n, x64):
    f = MATRICES[name]
    a = jnp.asarray(cases.normal(n, 12, n, n))
    found = jax.jit(jax.vmap(density.inverse(f)))(jax.vmap(f)(a))
    np.testing.assert_allclose(jax.vmap(f)(found), jax.vmap(f)(a), rtol=1e-8, atol=1e-8)
