"""Matrices with ties, zeros and deficient ranks, and the functions to differentiate at them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RNG = np.random.default_rng(0)


def orthogonal(n: int) -> np.ndarray:
    """Draw an orthogonal matrix."""
    return np.linalg.qr(RNG.normal(size=(n, n)))[0]


def rectangle(values, m: int, n: int) -> np.ndarray:
    """Return a rectangular matrix with the given singular values on its diagonal."""
    a = np.zeros((m, n))
    np.fill_diagonal(a, values)
    return a


def turned(values, m: int, n: int) -> np.ndarray:
    """Return a dense matrix with these singular values; equal ones are equal up to rounding."""
    return orthogonal(m) @ rectangle(values, m, n) @ orthogonal(n)


def symmetric(values) -> np.ndarray:
    """Return a symmetric matrix with these eigenvalues; equal ones are equal up to rounding."""
    q = orthogonal(len(values))
    return (q * values) @ q.T


KINDS = ("generic", "exact tie", "rounded tie", "rank 2", "exact 0")
SQUARE = {
    "generic": [RNG.normal(size=(4, 4))],
    "exact tie": [np.diag([3.0, 2, 2, 1]), np.eye(4)],
    "rounded tie": [turned([3, 2, 2, 1], 4, 4), turned([3, 3, 1, 1], 4, 4)],
    "rank 2": [turned([3, 2, 0, 0], 4, 4)],
    "exact 0": [np.diag([3.0, 2, 0, 0]), np.zeros((4, 4))],
}
TALL = {
    "generic": [RNG.normal(size=(5, 3))],
    "exact tie": [rectangle([3, 2, 2], 5, 3)],
    "rounded tie": [turned([3, 2, 2], 5, 3), turned([2, 2, 1], 5, 3)],
    "rank 2": [turned([3, 2, 0], 5, 3)],
    "exact 0": [rectangle([3, 2, 0], 5, 3), np.zeros((5, 3))],
}
WIDE = {kind: [a.T for a in matrices] for kind, matrices in TALL.items()}
SYMMETRIC = {
    "generic": [symmetric([3, 1.4, 0.6, -1])],
    "exact tie": [np.diag([3.0, 2, 2, 1]), np.eye(4)],
    "rounded tie": [symmetric([3, 2, 2, -1]), symmetric([1, 1, -2, -2])],
    "rank 2": [symmetric([3, 2, 0, 0])],
    "exact 0": [np.diag([3.0, 2, 0, 0]), np.zeros((4, 4))],
}
POSITIVE = {
    "generic": [symmetric([3, 1.4, 0.6, 0.3])],
    "exact tie": SYMMETRIC["exact tie"],
    "rounded tie": [symmetric([3, 2, 2, 1]), symmetric([1, 1, 2, 2])],
}


class Row(NamedTuple):
    """One function as computed by NumPy, JAX and funcdl; a matrix-valued one is weighted."""

    name: str
    shapes: tuple[dict, ...]
    reference: Callable
    theirs: Callable
    ours: Callable


def numpy_svd(a):
    """Return the factors that NumPy computes."""
    return np.linalg.svd(a, full_matrices=False)


def numpy_eigen(f):
    """Apply a function to the eigenvalues that NumPy computes, in descending order."""

    def apply(a):
        w, v = np.linalg.eigh((a + a.T) / 2)
        return (v[:, ::-1] * f(w[::-1])) @ v[:, ::-1].T

    return apply


def rows() -> list[Row]:
    """List the functions."""
    import jax
    import jax.numpy as jnp
    from jax.scipy.linalg import polar

    from funcdl import linalg

    every, square, b = (SQUARE, TALL, WIDE), (SQUARE,), RNG.normal(size=5)
    svd = lambda a: jnp.linalg.svd(a, full_matrices=False)
    svdvals = lambda a: jnp.linalg.svd(a, compute_uv=False)
    log = lambda s: jnp.log1p(s**2)

    def cut(svd, k, core=True):
        def f(a):
            u, s, vt = svd(a)
            return (u[:, :k] * s[None, :k]) @ vt[:k] if core else u[:, :k] @ u[:, :k].T

        return f

    def eigen(f):
        def apply(a):
            w, v = jnp.linalg.eigh(a)
            return (v[:, ::-1] * f(w[::-1])[None]) @ v[:, ::-1].T

        return apply

    def frame(a):
        v = linalg.eigenspace(a, 1).v
        return v @ v.T

    def solve(lstsq):
        return lambda a: lstsq(a, np.asarray(b[: len(a)], a.dtype))

    top = lambda w: 1.0 * (np.arange(len(w)) == 0)
    log_det = lambda w: np.log1p(w**2)
    polar_of = lambda a: numpy_svd(a)[0] @ numpy_svd(a)[2]
    spectral = lambda f: lambda a: linalg.spectral_sum(f, a)
    s_of = lambda a: numpy_svd(a)[1]
    ls = lambda a, b: linalg.least_squares(a, jnp.asarray(b)).x
    return [
        Row(
            "nuclear norm",
            every,
            lambda a: s_of(a).sum(),
            lambda a: svdvals(a).sum(),
            linalg.nuclear_norm,
        ),
        Row(
            "Σ log(1 + s²)",
            every,
            lambda a: log_det(s_of(a)).sum(),
            lambda a: log(svdvals(a)).sum(),
            spectral(log),
        ),
        Row(
            "projector, k = 1",
            every,
            cut(numpy_svd, 1, False),
            cut(svd, 1, False),
            lambda a: linalg.projector(a, 1),
        ),
        Row(
            "projector, k = 2",
            every,
            cut(numpy_svd, 2, False),
            cut(svd, 2, False),
            lambda a: linalg.projector(a, 2),
        ),
        Row(
            "rank-1 reconstruction",
            every,
            cut(numpy_svd, 1),
            cut(svd, 1),
            lambda a: linalg.low_rank_approximation(a, 1),
        ),
        Row(
            "rank-2 reconstruction",
            every,
            cut(numpy_svd, 2),
            cut(svd, 2),
            lambda a: linalg.low_rank_approximation(a, 2),
        ),
        Row(
            "U S Vᵀ, all",
            every,
            lambda a: a,
            cut(svd, 5),
            lambda a: linalg.low_rank_approximation(a, min(a.shape)),
        ),
        Row(
            "spectral norm",
            every,
            lambda a: s_of(a)[0],
            lambda a: jnp.linalg.norm(a, 2),
            linalg.spectral_norm,
        ),
        Row("Frobenius norm", every, np.linalg.norm, jnp.linalg.norm, linalg.frobenius_norm),
        Row(
            "condition number",
            every,
            lambda a: s_of(a)[0] / s_of(a)[-1],
            jnp.linalg.cond,
            linalg.cond,
        ),
        Row("polar factor", every, polar_of, lambda a: polar(a, method="svd")[0], linalg.polar),
        Row("pseudo-inverse", every, np.linalg.pinv, jnp.linalg.pinv, linalg.pinv),
        Row(
            "least squares",
            every,
            lambda a: np.linalg.lstsq(a, b[: len(a)])[0],
            solve(lambda a, b: jnp.linalg.lstsq(a, b)[0]),
            solve(ls),
        ),
        Row("determinant", square, np.linalg.det, jnp.linalg.det, linalg.det),
        Row(
            "Σ log(1 + w²)",
            (SYMMETRIC,),
            lambda a: np.trace(numpy_eigen(log_det)(a)),
            lambda a: log(jnp.linalg.eigvalsh(a)).sum(),
            lambda a: jnp.trace(linalg.matrix_function(log, a)),
        ),
        Row(
            "eigenprojector, k = 1",
            (SYMMETRIC,),
            numpy_eigen(top),
            eigen(lambda w: top(w).astype(w.dtype)),
            frame,
        ),
        Row(
            "V tanh(w) Vᵀ",
            (SYMMETRIC,),
            numpy_eigen(np.tanh),
            eigen(jnp.tanh),
            lambda a: linalg.matrix_function(jnp.tanh, a),
        ),
        Row(
            "square root",
            (POSITIVE,),
            numpy_eigen(np.sqrt),
            lambda a: jax.scipy.linalg.sqrtm(a).real,
            linalg.sqrtm,
        ),
    ]
