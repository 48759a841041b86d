"""Structured operators: derivatives through product, solve and logdet, mapping, edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

import cases
from funcdl import linalg

N = 5


def dense_toeplitz(c, r):
    i, j = jnp.arange(len(c))[:, None], jnp.arange(len(r))[None]
    return jnp.concatenate([r[:0:-1], c])[len(r) - 1 + i - j]


def dense_banded(ab):
    b, n = len(ab) // 2, ab.shape[1]
    i, j = jnp.arange(n)[:, None], jnp.arange(n)[None]
    return jnp.where(jnp.abs(i - j) <= b, ab[jnp.clip(b + i - j, 0, 2 * b), j], 0)


def dense_givens(angle):
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.eye(N).at[1, 1].set(c).at[1, 3].set(-s).at[3, 1].set(s).at[3, 3].set(c)


def skew(p):
    return (p - p.T) / 2


def regular(n, seed=0):
    return cases.normal(seed, n, n) + 3 * np.eye(n)


# builder, the same matrix by plain jax, parameters
PAIRS = {
    "matrix": (linalg.from_dense, lambda a: a, [regular(N)]),
    "psd matrix": (
        lambda a: linalg.from_dense(a, psd=True),
        lambda a: a,
        [cases.symmetric(np.arange(1.0, N + 1))],
    ),
    "diagonal": (linalg.diagonal, jnp.diag, [1.5 + np.arange(N)]),
    "circulant": (
        linalg.circulant,
        lambda c: dense_toeplitz(c, jnp.roll(c[::-1], 1)),
        [np.r_[4, cases.normal(0, N - 1)]],
    ),
    "covariance": (
        linalg.toeplitz,
        lambda c: dense_toeplitz(c, c),
        [np.exp(-np.arange(N) / 2)],
    ),
    "toeplitz": (
        lambda c, r: linalg.toeplitz(c, r.at[0].set(c[0])),
        dense_toeplitz,
        [np.r_[4, cases.normal(0, N - 1)], np.r_[0, cases.normal(1, N - 1)]],
    ),
    "kronecker": (linalg.kronecker, jnp.kron, [regular(2), regular(3, 1)]),
    "low-rank update": (
        linalg.low_rank_update,
        lambda d, u, v: jnp.diag(d) + u @ v.T,
        [1.5 + np.arange(N), *cases.normal(2, 2, N, 2)],
    ),
    "symmetric update": (
        linalg.low_rank_update,
        lambda d, u: jnp.diag(d) + u @ u.T,
        [1.5 + np.arange(N), cases.normal(2, N, 2)],
    ),
    "banded": (linalg.banded, dense_banded, [cases.normal(0, 5, N)]),
    "tridiagonal": (linalg.banded, dense_banded, [cases.normal(1, 3, N)]),
    "givens": (lambda t: linalg.givens(N, 1, 3, t), dense_givens, [np.asarray(0.7)]),
    "householder": (
        linalg.householder,
        lambda v: jnp.eye(N) - 2 * jnp.outer(v, v) / (v @ v),
        [cases.normal(0, N)],
    ),
    "cayley": (
        linalg.cayley,
        lambda p: jnp.linalg.solve(jnp.eye(N) + skew(p), jnp.eye(N) - skew(p)),
        [cases.normal(0, N, N)],
    ),
    "orthogonal": (
        linalg.orthogonal,
        lambda p: jax.scipy.linalg.expm(skew(p)),
        [cases.normal(0, N, N)],
    ),
}


def summary(A, b):
    """Product, transpose, solve of both and logdet in one number that is curved in each."""
    parts = [A @ b, A.solve(b)] + ([] if A.symmetric else [A.T @ b, A.T.solve(b)])
    return _number(parts, b) + A.logdet()


def _number(parts, b):
    weights = jnp.arange(1.0, 1 + len(b), dtype=b.dtype)
    return sum((w + 1) * jnp.sin(x) @ weights for w, x in enumerate(parts))


@partial(jax.jit, static_argnums=2)
def reference(a, b, symmetric):
    parts = [a @ b, jnp.linalg.solve(a, b)]
    parts += [] if symmetric else [a.T @ b, jnp.linalg.solve(a.T, b)]
    return _number(parts, b) + jnp.linalg.slogdet(a)[1]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("x64")
def test_derivatives_to_second_order_are_those_of_the_matrix(name):
    build, dense, params = PAIRS[name]
    params = [jnp.asarray(p, jnp.float64) for p in params]
    A = build(*params)
    args = (*params, jnp.asarray(cases.normal(9, A.space_in.size)))
    # directions without any symmetry: symmetric at the point is not symmetric along the path
    along = tuple(jnp.asarray(cases.normal(20 + i, *p.shape)) for i, p in enumerate(args))

    def second(f):
        every = tuple(range(len(args)))
        return jax.jvp(jax.value_and_grad(lambda *a: f(a[:-1], a[-1]), every), args, along)

    got = jax.jit(lambda: second(lambda p, b: summary(build(*p), b)))()
    expected = second(lambda p, b: reference(dense(*p), b, A.symmetric))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-9 * (1 + np.abs(y).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_finite_differences(name):
    build, _, params = PAIRS[name]
    params = [jnp.asarray(p, jnp.float64) for p in params]
    b = jnp.asarray(cases.normal(9, build(*params).space_in.size))
    f = jax.jit(lambda *p: summary(build(*p), b))
    check_grads(f, params, order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_operators_are_mapped_over_their_parameters(name):
    build, dense, params = PAIRS[name]
    stacks = [jnp.stack([jnp.asarray(p, jnp.float32) * c for c in (1.0, 1.1)]) for p in params]
    n = dense(*(s[0] for s in stacks)).shape[0]
    b = jnp.asarray(cases.normal(9, n), jnp.float32)

    @jax.jit
    @jax.vmap
    def both(*p):
        A = build(*p)
        return A @ b, A.T @ b, A.solve(b), A.logdet()

    got = both(*stacks)
    for i in range(2):
        a = np.asarray(dense(*(s[i] for s in stacks)), np.float64)
        expected = a @ b, a.T @ b, np.linalg.solve(a, b), np.linalg.slogdet(a)[1]
        for x, y in zip(got, expected):
            np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-4)


LARGE = 300  # beyond elimination


def large(kind):
    """Toeplitz matrices of every kind: (column, row or None)."""
    i = np.arange(LARGE)
    spd = np.exp(-i / 20) + 0.1 * (i == 0)
    wave = np.cos(0.3 * i) * np.exp(-i / 20) - 0.3 * (i == 0)
    general = 0.7**i + 0.05 * (i == 0), np.r_[1.05, 0.5 * 0.4 ** i[1:]]
    return {"definite": (spd, None), "indefinite": (wave, None), "general": general}[kind]


@jax.jit
def large_parts(A, b):
    return A.solve(b), A.logdet()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["definite", "indefinite", "general"])
def test_large_toeplitz_systems_are_solved_as_well_as_by_levinson(kind, dtype):
    column, row = large(kind)
    matrix = scipy.linalg.toeplitz(column, row)
    b, eps = cases.normal(3, LARGE), np.finfo(dtype).eps
    with jax.enable_x64(dtype is np.float64):
        A = linalg.toeplitz(*(jnp.asarray(x, dtype) for x in (column, row) if x is not None))
        x, logdet = large_parts(A, jnp.asarray(b, dtype))
    size = np.linalg.norm(matrix, 2) * np.linalg.norm(x) + np.linalg.norm(b)
    assert np.linalg.norm(matrix @ np.asarray(x, np.float64) - b) <= 50 * eps * size
    expected = np.linalg.slogdet(matrix)[1]
    if kind == "indefinite":
        assert np.isnan(logdet)
    else:
        np.testing.assert_allclose(logdet, expected, rtol=100 * eps)


@pytest.mark.usefixtures("x64")
def test_the_derivatives_of_a_large_toeplitz_solve_are_those_of_the_matrix():
    b, d, t = (jnp.asarray(cases.normal(s, LARGE)) for s in (3, 4, 5))
    for kind in ("definite", "general"):
        column, row = large(kind)
        c = jnp.asarray(column)
        r = None if row is None else jnp.asarray(row)

        def ours(c, b, r=r):
            return (
                jnp.sin(linalg.toeplitz(*((c,) if r is None else (c, r.at[0].set(c[0])))).solve(b))
                @ d
            )

        def plain(c, b, r=r):
            return jnp.sin(jnp.linalg.solve(dense_toeplitz(c, c if r is None else r), b)) @ d

        def second(f, c, b):
            return jax.jvp(jax.grad(f, (0, 1)), (c, b), (t, d))

        got, expected = (jax.jit(lambda c, b, f=f: second(f, c, b))(c, b) for f in (ours, plain))
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * np.abs(y).max())


def test_what_levinson_cannot_solve_is_nan():
    column = jnp.zeros(LARGE).at[1].set(1.0)  # regular, but its leading matrices are not
    x, logdet = large_parts(linalg.toeplitz(column), jnp.ones(LARGE))
    assert jnp.isnan(x).all()
    assert jnp.isnan(logdet)
    small = linalg.toeplitz(jnp.asarray([0.0, 1.0])).solve(jnp.asarray([2.0, 3.0]))
    assert small.tolist() == [3.0, 2.0]


def test_a_singular_circulant_says_so_and_has_no_finite_derivative():
    column = jnp.asarray([1.0, -0.5, 0.0, -0.5])  # its sum is the first mode

    def ends(c):
        A = linalg.circulant(c)
        return A.solve(jnp.asarray([1.0, 2.0, -3.0, 5.0])), A.logdet()

    x, logdet = ends(column)
    assert not jnp.isfinite(x).any()
    assert logdet == -jnp.inf
    for part in (0, 1):
        gradient = jax.grad(lambda c, part=part: ends(c)[part].sum())(column)
        assert not jnp.isfinite(gradient).any()


def test_a_zero_on_the_diagonal_divides():
    A = linalg.diagonal(jnp.asarray([0.0, 2.0]))
    assert A.solve(jnp.asarray([1.0, 2.0])).tolist() == [jnp.inf, 1.0]
    assert A.logdet() == -jnp.inf


def test_a_reflection_at_the_zero_vector_is_the_identity_with_derivative_zero():
    x = jnp.arange(1.0, 4.0)

    def f(v):
        return ((linalg.householder(v) @ x) ** 2 * x).sum()

    v = jnp.zeros(3)
    assert (linalg.householder(v) @ x).tolist() == x.tolist()
    assert jax.grad(f)(v).tolist() == [0.0] * 3
    assert jax.hessian(f)(v).tolist() == [[0.0] * 3] * 3
    tiny = linalg.householder(jnp.asarray([1e-30, 0.0, 0.0])) @ x  # its square is 0 in float32
    np.testing.assert_allclose(tiny, [-1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", ["givens", "householder", "cayley", "orthogonal"])
@pytest.mark.usefixtures("x64")
def test_orthogonal_maps_keep_lengths(name):
    build, _, params = PAIRS[name]
    q = build(*(jnp.asarray(p) for p in params)).dense()
    np.testing.assert_allclose(q @ q.T, np.eye(N), atol=1e-14)


def test_trees_have_diagonals_too():
    A = linalg.diagonal({"a": jnp.asarray([2.0]), "b": jnp.asarray([[4.0, 5.0]])})
    x = A.solve({"a": jnp.ones(1), "b": jnp.ones((1, 2))})
    assert x["b"].tolist() == [[0.25, jnp.float32(0.2)]]
    np.testing.assert_allclose(A.shift(1.0).logdet(), np.log(3 * 5 * 6), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_matrices_work(n):
    c, b = cases.normal(0, n) + 3 * np.eye(n)[0], cases.normal(1, n)
    builders = {
        "toeplitz": (linalg.toeplitz, scipy.linalg.toeplitz(c)),
        "circulant": (linalg.circulant, scipy.linalg.circulant(c)),
        "banded": (lambda c: linalg.banded(c[None]), np.diag(c)),
    }
    for build, matrix in builders.values():
        A = build(jnp.asarray(c, jnp.float32))
        np.testing.assert_allclose(A @ b, matrix @ b, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(A.solve(b), np.linalg.solve(matrix, b), rtol=1e-4, atol=1e-5)


def test_the_length_of_a_fourier_transform_is_a_product_of_small_primes():
    from funcdl.linalg import _toeplitz

    for n in (2, 7, 129, 1000, 1025, 8191):
        length = _toeplitz._fast_length(n)
        assert n <= length < 1.15 * n + 2
        assert length % 2 == 0
        for prime in (2, 3, 5):
            while length % prime == 0:
                length //= prime
        assert length == 1
