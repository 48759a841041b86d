"""The condition number against numpy in float64, its derivatives, and where float32 ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import cases
from funcdl import operators
from funcdl.operators import cond

KEY = jax.random.key(0)
POSITIVE = cases.symmetric(np.linspace(0.2, 3, 30))
MATRICES = {
    "psd": (POSITIVE, {"psd": True}),
    "symmetric": (cases.symmetric(np.r_[np.linspace(-2, -0.5, 15), np.linspace(0.4, 3, 15)]), {}),
    "square": (cases.normal(1, 12, 12) + 4 * np.eye(12), {}),
    "wide": (cases.normal(0, 5, 9), {}),
    "tall": (cases.normal(0, 9, 5), {}),
}


@pytest.mark.parametrize("name", MATRICES)
def test_it_is_that_of_numpy_for_every_kind_of_operator(name):
    a, flags = MATRICES[name]
    flags = flags or {"symmetric": name == "symmetric"}
    found = cond(operators.from_dense(jnp.asarray(a, jnp.float32), **flags), key=KEY)
    s = np.linalg.svd(a, compute_uv=False)
    assert found.converged
    assert found.residual <= 1e-3
    np.testing.assert_allclose(found[:3], (s[0] / s[-1], s[0], s[-1]), rtol=1e-3)


def moved(t):
    a = jnp.asarray(POSITIVE[:4, :4])
    return a @ a + t[0] * jnp.diag(jnp.arange(4.0)) + t[1] * jnp.ones((4, 4))


def ends(t, psd):
    A = operators.from_dense(moved(t), psd=psd)
    return jnp.stack(cond(A, key=KEY, tol=1e-11)[:3])


POINT = np.asarray([0.1, 0.2])


@pytest.mark.parametrize("psd", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.usefixtures("x64")
def test_it_has_the_second_derivatives_of_dense_eigenvalues(psd):
    def dense(t):
        values = jnp.linalg.eigvalsh(moved(t))
        return jnp.stack([values[-1] / values[0], values[-1], values[0]])

    got = jax.jit(jax.hessian(lambda t: ends(t, psd)))(POINT)
    np.testing.assert_allclose(got, jax.jit(jax.hessian(dense))(POINT), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("psd", [True, False])
@pytest.mark.usefixtures("x64")
def test_it_has_the_derivatives_of_finite_differences(psd):
    f = jax.jit(lambda t: ends(t, psd))
    check_grads(f, (jnp.asarray(POINT),), order=2, modes=("fwd", "rev"))


@pytest.mark.parametrize("psd", [True, False])
def test_beyond_the_precision_of_float32_it_says_so_and_its_gradient_is_nan(psd):
    limit = 800 if psd else 29

    def f(smallest):
        d = jnp.linspace(1, 2, 20).at[0].set(smallest)
        return cond(operators.from_dense(jnp.diag(d), psd=psd), key=KEY)

    both = jax.jit(jax.value_and_grad(lambda x: (f(x).value, f(x).converged), has_aux=True))
    (value, converged), slope = both(2 / (0.8 * limit))
    assert converged
    np.testing.assert_allclose(value, 0.8 * limit, rtol=2e-3)
    np.testing.assert_allclose(slope, -((0.8 * limit) ** 2) / 2, rtol=2e-2)
    (_, converged), slope = both(2e-3 / limit)
    assert not converged
    assert jnp.isnan(slope)


def test_a_singular_operator_does_not_converge_and_require_converged_raises():
    found = cond(operators.from_dense(jnp.ones((3, 3)), psd=True), key=KEY)
    assert not found.converged
    with pytest.raises(operators.NotConvergedError, match="1 of 1"):
        operators.require_converged(found)
