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
