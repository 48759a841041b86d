"""Products of powers and exponentials: their value, their logarithm, and gradients at 0."""

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.density._primitives.slope import ONE, inverted, linear, log_magnitude, of, product


def value(slope):
    factor, log = linear(slope)
    return factor * (1.0 if log is None else jnp.exp(log))


def test_products_multiply_and_logarithms_add(x64):
    a, b = of(2.0, (jnp.float64(3.0), -1), log=0.5), of(-5.0, log=jnp.float64(1.5))
    np.testing.assert_allclose(value(product(a, b)), value(a) * value(b))
    np.testing.assert_allclose(log_magnitude(product(a, b)), np.log(abs(value(a) * value(b))))
    np.testing.assert_allclose(value(inverted(a)), 1 / value(a))
    assert value(ONE) == 1


def test_a_logarithm_survives_where_the_value_underflows():
    slope = of(log=jnp.float32(-200.0))
    assert value(slope) == 0
    assert log_magnitude(slope) == -200


def test_a_factor_of_zero_keeps_its_gradient():
    gradient = jax.grad(lambda x: value(of(x, log=jnp.float32(1.0))))(0.0)
    np.testing.assert_allclose(gradient, np.e, rtol=1e-6)


def test_a_branch_that_is_not_taken_may_be_infinite():
    slope = of(jnp.array([True, False]), jnp.array([2.0, jnp.inf]))
    np.testing.assert_array_equal(value(slope), [2.0, 0.0])
    np.testing.assert_allclose(log_magnitude(slope), [np.log(2.0), -np.inf], rtol=1e-6)
