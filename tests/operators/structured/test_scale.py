"""Multiplying a structured matrix by a number scales its products, solutions and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import operators

N = 6
DTYPES = [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]
POWERS = {jnp.float32: (-30, -16, 16, 30), jnp.float64: (-280, -150, 150, 280)}
CORRELATION = 0.5 ** np.arange(N)
SQUARE = cases.normal(0, N, N) + 3 * np.eye(N)
SYMMETRIC = cases.symmetric(np.arange(1.0, N + 1))
# builder of a multiple c of one matrix, from parameters p
BUILT = {
    "matrix": (lambda c, p: operators.from_dense(c * p), SQUARE),
    "psd matrix": (lambda c, p: operators.from_dense(c * p, psd=True), SYMMETRIC),
    "symmetric matrix": (
        lambda c, p: operators.from_dense(c * p, symmetric=True),
        SYMMETRIC - 2.5 * np.eye(N),
    ),
    "diagonal": (lambda c, p: operators.from_diagonal(c * p), 1.5 + np.arange(N)),
    "circulant": (lambda c, p: operators.circulant(c * p), np.r_[4, cases.normal(0, N - 1)]),
    "covariance": (lambda c, p: operators.toeplitz(c * p), CORRELATION),
    "toeplitz": (
        lambda c, p: operators.toeplitz(c * p, c * (p + p[0] - p[::-1] * 0.5).at[0].set(p[0])),
        np.r_[4, cases.normal(0, N - 1)],
    ),
    "banded": (
        lambda c, p: operators.banded(c * p),
        cases.normal(0, 5, N) + np.eye(5)[2][:, None] * 5,
    ),
    "tridiagonal": (
        lambda c, p: operators.banded(c * p),
        cases.normal(1, 3, N) + np.eye(3)[1][:, None] * 4,
    ),
    "kronecker": (
        lambda c, p: operators.kronecker(c * p, jnp.eye(2, dtype=p.dtype) + p[:2, :2] / 9),
        SQUARE[:3, :3],
    ),
    "kronecker, second": (
        lambda c, p: operators.kronecker(jnp.eye(2, dtype=p.dtype) + p[:2, :2] / 9, c * p),
        SQUARE[:3, :3],
    ),
    "low-rank update": (
        lambda c, p: operators.low_rank_update(c * (1.5 + p[0]), c * p[1:3].T, p[3:5].T),
        np.abs(cases.normal(2, 5, N)),
    ),
    "low-rank update, even": (
        lambda c, p: operators.low_rank_update(
            c * (1.5 + p[0]), jnp.sqrt(c) * p[1:3].T, jnp.sqrt(c) * p[3:5].T
        ),
        np.abs(cases.normal(2, 5, N)),
    ),
    "symmetric update": (
        lambda c, p: operators.low_rank_update(c * (1.5 + p[0]), jnp.sqrt(c) * p[1:3].T),
        np.abs(cases.normal(2, 3, N)),
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BUILT)
def test_products_solutions_and_log_determinants_scale(name, dtype):
    build, p = BUILT[name]
    with jax.enable_x64(dtype == jnp.float64):
        p = jnp.asarray(p, dtype)
        b = jnp.cos(jnp.arange(build(jnp.ones((), dtype), p).space_in.size, dtype=dtype))

        def all_of(c):
            """Each value, its gradient and its derivative along p: degree in c, and in A."""
            values = {
                "product": (lambda p: b @ (build(c, p) @ b), 1),
                "solution": (lambda p: b @ build(c, p).solve(b), -1),
                "solution of c b": (lambda p: b @ build(c, p).solve(c * b), 0),
                "logdet": (lambda p: build(c, p).logdet() - len(b) * jnp.log(c), 0),
            }
            if not name.startswith("kronecker"):
                values["shift"] = (lambda p: b @ (build(c, p).inv(c) @ b), -1)
            for kind, (f, degree) in values.items():
                yield kind, degree, degree, f(p)
                # by way of the gradient for A, which has to be representable
                yield f"gradient of {kind}", degree, degree - 1, jax.grad(f)(p)
                yield f"tangent of {kind}", degree, degree, jax.jvp(f, (p,), (p,))[1]

        found_at = jax.jit(lambda c: [x for *_, x in all_of(c)])
        right = found_at(jnp.ones((), dtype))
        kinds = [kind for *kind, _ in all_of(jnp.ones((), dtype))]
        limit = 0.9 * np.log10(jnp.finfo(dtype).max)
        for k in POWERS[dtype]:
            for ours, x, (kind, degree, steepest) in zip(found_at(10.0**k), right, kinds):
                if max(abs(k * degree), abs(k * steepest)) < limit:
                    scaled = np.asarray(ours, np.longdouble) / np.longdouble(10) ** (k * degree)
                    tolerance = 2e-4 * max(np.abs(x).max(), 1e-2)
                    np.testing.assert_allclose(
                        scaled, x, rtol=2e-4, atol=tolerance, err_msg=f"{kind}, 1e{k}"
                    )
