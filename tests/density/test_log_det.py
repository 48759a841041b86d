"""Log-determinants of plain functions against dense float64 ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density
from maps import NUMERIC, PLAIN

CASES = {**PLAIN, **{f"numeric {name}": case for name, case in NUMERIC.items()}}


def point(case, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), case.x)


def dense(f):
    """The log-determinant of the whole Jacobian."""

    def log_det(x):
        flat, back = jax.flatten_util.ravel_pytree(x)
        raveled = lambda z: jax.flatten_util.ravel_pytree(f(back(z)))[0]
        return jnp.linalg.slogdet(jax.jacfwd(raveled)(flat))[1]

    return log_det


@pytest.mark.parametrize("name", CASES)
def test_log_det_and_its_gradient_are_those_of_the_dense_jacobian(name, x64):
    case = CASES[name]
    x = point(case, jnp.float64)

    @jax.jit
    def both(x):
        y, log_det = density.value_and_log_det(case.f)(x)
        gradient = jax.grad(lambda x: density.log_abs_det_jacobian(case.f)(x))(x)
        return y, log_det, gradient, case.f(x), jax.value_and_grad(dense(case.f))(x)

    y, found, gradient, value, (expected, slope) = both(x)
    if name in ("softmax", "numeric constant", "numeric sum twice"):
        assert found == -jnp.inf  # the dense one is -inf, or rounding
        return
    assert np.isclose(found, expected, rtol=1e-10, atol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), y, value)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7), gradient, slope
    )
