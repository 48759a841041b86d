"""Second derivatives of what a scan repeats are those of the same calls one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import autodiff, density, linalg, operators, stats

W = cases.normal(0, 3, 3) * 0.3
A = cases.normal(1, 5, 3)
B = np.arange(5.0)
KEY = jax.random.key(0)


def matrix(x):
    return jnp.diag(jnp.arange(1.0, 4.0)) + 0.1 * jnp.outer(x, x)


def operator(x):
    return operators.from_dense(matrix(x), psd=True)


def eigenvalue(x):
    return operators.eigsh(operator(x), 1, key=KEY, tol=1e-12).values[0]


def center(x):
    rows = jnp.concatenate([A * x[None], jnp.asarray(A + 5)])
    return stats.lloyd(rows, jnp.asarray([[0.0] * 3, [5.0] * 3])).centers[0]


def column(x):
    return jnp.concatenate([4 + x, jnp.zeros(297)])


MAPS = {
    "inverse by sweeps": density.inverse(lambda x: x + jnp.tanh(np.tril(W, -1) @ x)),
    "inverse by Newton": density.inverse(lambda x: x + 0.3 * jnp.tanh(W @ x)),
    "implicit_root": autodiff.implicit_root(jnp.cbrt, lambda x, t: x**3 - t),
    "implicit_fixed_point": autodiff.implicit_fixed_point(
        lambda t: jnp.sqrt(t**2 + 1), lambda x, t: (x + (t**2 + 1) / x) / 2
    ),
    "implicit_argmin": autodiff.implicit_argmin(
        lambda t: jnp.sinh(t) / 2, lambda x, t: (x**2 - x * jnp.sinh(t)).sum()
    ),
    "eigsh": lambda x: eigenvalue(x) * x,
    "cg": lambda x: operators.cg(operator(x), jnp.ones(3), tol=1e-12).x,
    "logdet": lambda x: operators.logdet(operator(x), key=KEY, probes=4, steps=3).value * x / 3,
    "toeplitz": lambda x: operators.toeplitz(column(x)).logdet() * x / 1e3,
    "lasso": lambda x: linalg.lasso(A + x[None], jnp.asarray(B), 0.01, tol=1e-14).x,
    "ridge": lambda x: linalg.ridge(A + x[None], jnp.asarray(B), 0.1),
    "least_squares": lambda x: linalg.least_squares(A + x[None], jnp.asarray(B)).x,
    "eigh": lambda x: linalg.eigh(matrix(x)).vectors[:, 0] ** 2,
    "spectral_norm": lambda x: linalg.spectral_norm(matrix(x)) * x / 3,
    "lloyd": lambda x: center(x) ** 2,
}


OFTEN = ("inverse by sweeps", "implicit_root", "cg", "lasso")


@pytest.mark.parametrize("name", cases.often(MAPS, OFTEN))
@pytest.mark.usefixtures("free_memory_after_test")
def test_the_hessian_in_three_modes(name, x64):
    f, x, weights = MAPS[name], jnp.asarray([0.3, -0.7, 0.5]), jnp.asarray([1.0, 2.0, -1.0])

    def once(x):
        return f(jnp.tanh(x) + 0.3)

    def looped(x):
        return weights @ jax.lax.scan(lambda x, _: (once(x), None), x, length=2)[0]

    expected = jax.hessian(lambda x: weights @ once(once(x)))(x)
    # jax.hessian is forward over reverse; without a loop, forward over forward has to agree
    forward = jax.jacfwd(jax.jacfwd(lambda x: weights @ once(once(x))))(x)
    tolerance = {"rtol": 1e-6, "atol": 1e-6 * np.abs(expected).max()}
    np.testing.assert_allclose(expected, forward, **tolerance)
    modes = (jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacrev), (jax.jacrev, jax.jacfwd)
    for outer, inner in modes:
        np.testing.assert_allclose(outer(inner(looped))(x), expected, **tolerance)
