"""Random operators: what is called converged is right, against dense float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import operators

LANES = 25  # operators that share a compiled program
TOL = 1e-3


class Case(NamedTuple):
    """A symmetric matrix and a vector: the same in the dtype of the test and in float64."""

    a: np.ndarray
    b: np.ndarray


def spectrum(rng, n, definite):
    """Eigenvalues of one of several kinds: random, multiple, clustered, graded, low rank."""
    kind = rng.integers(6)
    values = [
        rng.normal(size=n),
        rng.normal(size=(1 + n // 5)).repeat(5)[:n],
        1 + 1e-2 * rng.normal(size=n),
        np.logspace(0, -rng.integers(1, 6), n),
        np.r_[rng.normal(size=max(1, n // 4)), np.zeros(n - max(1, n // 4))],
        np.r_[np.ones(n // 2) * 2, rng.uniform(size=n - n // 2)],
    ][kind]
    return np.abs(values) + 1e-3 * (kind != 4) if definite else values * rng.choice([-1, 1])


def case(rng, n, dtype, definite=False):
    scale = 10.0 ** rng.integers(*((-30, 30) if dtype == np.float32 else (-150, 150)))
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    a = (basis * spectrum(rng, n, definite) * scale) @ basis.T
    b = rng.normal(size=n) * 10.0 ** rng.integers(-5, 5)
    return Case(((a + a.T) / 2).astype(dtype), b.astype(dtype))


@partial(jax.jit, static_argnums=(1, 2))
@partial(jax.vmap, in_axes=(0, None, None, 0))
def pairs(a, k, which, key):
    A = operators.from_dense(a, symmetric=True)
    return operators.eigsh(A, k, key=key, which=which, tol=TOL)


def check_eigenpairs(seed, n, k, which, dtype):
    rng = np.random.default_rng(seed)
    cases = [case(rng, n, dtype) for _ in range(LANES)]
    keys = jax.random.split(jax.random.key(seed), LANES)
    found = pairs(jnp.stack([c.a for c in cases]), k, which, keys)
    for i, c in enumerate(cases):
        w = np.linalg.eigvalsh(np.float64(c.a))
        rank = {"LM": -np.abs(w), "LA": -w, "SA": w}[which]
        right = w[np.argsort(rank, kind="stable")][:k]
        size = np.abs(w).max()
        # values that are closer than this may be exchanged: see the docstring
        slack = 2 * TOL * np.abs(right) + 1e-4 * size
        order = np.abs if which == "LM" else (lambda x: x)
        error = np.abs(order(np.float64(found.values[i])) - order(right))
        sound = np.asarray(found.converged[i])
        assert not (sound & (error > slack)).any(), (seed, i, error / size)
    return float(np.mean(found.converged))


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, 0))
def solution(name, a, b):
    A = operators.from_dense(a, symmetric=True, psd=name == "cg")
    return getattr(operators, name)(A, b, tol=1e-4, max_steps=200)


def check_solutions(seed, n, name, dtype):
    rng = np.random.default_rng(seed)
    cases = [case(rng, n, dtype, definite=name == "cg") for _ in range(LANES)]
    found = solution(name, *(jnp.stack(x) for x in zip(*cases)))
    for i, c in enumerate(cases):
        unit, x = np.abs(c.a).max(), np.float64(found.x[i])
        a, x = np.float64(c.a) / unit, x * np.float64(unit)
        r = np.linalg.norm(a @ x - c.b)
        rounding = np.finfo(dtype).eps * np.linalg.norm(a) * np.linalg.norm(x)
        if name != "lsmr":  # which may also stop at a least-squares solution
            assert not found.converged[i] or r <= 1.01e-4 * np.linalg.norm(c.b) + 4 * rounding
    return float(np.mean(found.converged))


EIGEN = [(30, 3, "LM"), (12, 5, "LA"), (60, 1, "SA")]
SOLVERS = ["cg", "minres", "lsmr"]


@pytest.mark.parametrize(("n", "k", "which"), EIGEN)
def test_converged_eigenpairs_are_the_wanted_ones(n, k, which):
    shares = [check_eigenpairs(seed, n, k, which, np.float32) for seed in range(2)]
    assert min(shares) > 0.75  # values near 0 take too many products


@pytest.mark.usefixtures("x64")
def test_so_they_are_in_float64():
    assert check_eigenpairs(0, 50, 5, "LM", np.float64) > 0.9


@pytest.mark.parametrize("name", SOLVERS)
def test_converged_solutions_solve(name):
    assert check_solutions(0, 30, name, np.float32) > 0.3
    with jax.enable_x64(True):
        assert check_solutions(1, 30, name, np.float64) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ten_thousand_random_operators(dtype):
    with jax.enable_x64(dtype == np.float64):
        for n, k in ((2, 1), (7, 2), (20, 5), (50, 5), (60, 3), (60, 12)):
            for which in ("LM", "LA", "SA"):
                for seed in range(10):
                    check_eigenpairs(seed, n, k, which, dtype)
        for n in (2, 13, 60):
            for name in SOLVERS:
                for seed in range(3):
                    check_solutions(seed, n, name, dtype)
