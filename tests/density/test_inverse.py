"""Inverses of plain functions: round trips, their derivatives, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density
from maps import NUMERIC, PLAIN

CASES = {**PLAIN, **{f"numeric {name}": case for name, case in NUMERIC.items()}}


def raveled(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.injective])
def test_inverse_and_its_jacobian(name, x64):
    case = CASES[name]
    x = jax.tree.map(jnp.asarray, case.x)
    flat, back = jax.flatten_util.ravel_pytree(x)

    @jax.jit
    def there_and_back(x):
        y = case.f(x)
        flat_y, back_y = jax.flatten_util.ravel_pytree(y)
        inverted = lambda z: raveled(density.inverse(case.f, x)(back_y(z)))
        forward = jax.jacfwd(lambda z: raveled(case.f(back(z))))(flat)
        again, log_det = density.inverse_and_log_det(case.f, x)(y)
        return again, log_det, forward, jax.jacfwd(inverted)(flat_y)

    again, log_det, forward, backward = there_and_back(x)
    np.testing.assert_allclose(raveled(again), flat, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(backward @ forward, np.eye(len(flat)), atol=2e-6)
    assert np.isclose(-log_det, np.linalg.slogdet(forward)[1], atol=1e-6)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.injective])
def test_a_map_without_inverse_is_refused_or_nan(name, x64):
    case = CASES[name]
    x = jax.tree.map(jnp.asarray, case.x)
    with pytest.raises(density.NotInjectiveError, match=r"injective|singular"):
        density.inverse(case.f)(case.f(x))
