"""Multiplying A, b or a cotangent by a number scales the answer, over the range of the dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import operators
from funcdl.autodiff import implicit_argmin, implicit_fixed_point, implicit_root

N = 40
VALUES = np.linspace(1, 50, N)
DTYPES = [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]
RANGES = {jnp.float32: (-30, -15, 15, 30), jnp.float64: (-250, -150, 150, 250)}
SOLVERS = {
    "cg": lambda d: operators.from_function(lambda v: d * v, d, psd=True),
    "minres": lambda d: operators.from_function(lambda v: d * v, d, symmetric=True),
    "lsmr": lambda d: operators.from_function(lambda v: d * v, d, symmetric=True),
    "solve": lambda d: operators.from_function(lambda v: d * v, d, symmetric=True),
    "solve, closed": operators.from_diagonal,
}


def powers(dtype):
    return jnp.asarray([10.0**k for k in RANGES[dtype]], dtype)


def solution(name, d, b):
    d = -d if name in ("minres", "lsmr") else d
    return getattr(operators, name.split(",")[0])(SOLVERS[name](d), b, tol=1e-5, max_steps=300).x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOLVERS)
def test_solutions_and_their_derivatives_scale(name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        d, b, scales = jnp.asarray(VALUES, dtype), jnp.ones(N, dtype), powers(dtype)
        sign = -1 if name in ("minres", "lsmr") else 1
        exact = sign / VALUES

        @jax.jit
        @jax.vmap
        def all_of(c):
            pull = jax.vjp(lambda b: solution(name, d, b), b)[1]
            return (
                solution(name, c * d, b) * c,
                solution(name, d, c * b) / c,
                solution(name, c * d, c * b),
                pull(c * b)[0] / c,
                jax.jvp(lambda b: solution(name, d, b), (b,), (c * b,))[1] / c,
                jax.grad(lambda d: c * solution(name, d, b).sum())(d) / c,
            )

        *solutions, slope = all_of(scales)
        for found in solutions:
            np.testing.assert_allclose(found, np.tile(exact, (4, 1)), rtol=2e-3)
        np.testing.assert_allclose(slope, np.tile(-sign / VALUES**2, (4, 1)), rtol=5e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e30])
@pytest.mark.parametrize("name", ["cg", "minres", "lsmr"])
def test_the_number_of_steps_does_not_depend_on_units(name, scale):
    d = jnp.asarray(np.linspace(1, 30, 30), jnp.float32)
    A = operators.from_dense(jnp.diag(d * scale), symmetric=True, psd=name == "cg")
    found = getattr(operators, name)(A, jnp.ones(30))
    assert found.converged
    right = getattr(operators, name)(
        operators.from_dense(jnp.diag(d), symmetric=True, psd=name == "cg"), jnp.ones(30)
    )
    assert abs(int(found.steps) - int(right.steps)) <= 2
    np.testing.assert_allclose(found.x * scale, 1 / d, rtol=1e-3)


IMPLICIT = {
    "root": lambda d: implicit_root(lambda t: jnp.sqrt(t / d), lambda x, t: d * x**2 - t),
    "argmin": lambda d: implicit_argmin(lambda t: t / d, lambda x, t: (d * x**2 / 2 - t * x).sum()),
    "fixed point": lambda d: implicit_fixed_point(
        lambda t: jnp.sqrt(t / d), lambda x, t: (x + t / (d * x)) / 2
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 80])  # dense, and by products
@pytest.mark.parametrize("name", cases.often(IMPLICIT, ("root",)))
def test_implicit_derivatives_scale(name, n, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        d = jnp.asarray(np.linspace(1, 3, n), dtype)
        t, scales = jnp.full(n, 2, dtype), powers(dtype)
        f = IMPLICIT[name](d)
        exact = 1 / d if name == "argmin" else 1 / jnp.sqrt(d * t) / 2

        @jax.jit
        @jax.vmap
        def both(c):
            forward = jax.jvp(f, (t,), (c * jnp.ones(n, dtype),))[1]
            return forward / c, jax.grad(lambda t: c * f(t).sum())(t) / c

        for found in both(scales):
            np.testing.assert_allclose(found, jnp.tile(exact, (4, 1)), rtol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", cases.often(("LM", "LA", "SA"), ("LA",)))
def test_eigenpairs_and_their_gradients_scale(which, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.normal(size=(30, 30)))[0]
        values = np.r_[np.linspace(1, 30, 29), -40]
        a = jnp.asarray((basis * values) @ basis.T, dtype)

        @jax.jit
        @jax.vmap
        def top(c):
            def value(a):
                A = operators.from_dense(a, symmetric=True)
                return operators.eigsh(A, 1, key=jax.random.key(0), which=which, tol=1e-4)

            slope = jax.grad(lambda a: value(a).values[0])(c * a)
            pairs = value(c * a)
            turn = jax.jvp(
                lambda a: value(a).vectors,
                (c * a,),
                (c * a * jnp.arange(30.0, dtype=dtype)[:, None],),
            )[1]
            return pairs.values[0] / c, pairs.converged.all(), slope, jnp.abs(turn)

        value, converged, slope, turn = top(powers(dtype))
        right = {"LM": -40, "LA": 30, "SA": -40}[which]
        i = list(values.round(9)).index(right)
        assert converged.all()
        np.testing.assert_allclose(value, right, rtol=1e-5)
        np.testing.assert_allclose(
            slope, np.tile(np.outer(basis[:, i], basis[:, i]), (4, 1, 1)), atol=5e-3
        )
        assert jnp.isfinite(turn).all()
        np.testing.assert_allclose(turn, np.tile(turn[1], (4, 1, 1)), rtol=0.05, atol=1e-2)
