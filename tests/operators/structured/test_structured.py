"""Structured operators: derivatives through product, solve and logdet, mapping, edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

import cases
from funcdl import operators

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
    "matrix": (operators.from_dense, lambda a: a, [regular(N)]),
    "psd matrix": (
        lambda a: operators.from_dense(a, psd=True),
        lambda a: a,
        [cases.symmetric(np.arange(1.0, N + 1))],
    ),
    "diagonal": (operators.from_diagonal, jnp.diag, [1.5 + np.arange(N)]),
    "circulant": (
        operators.circulant,
        lambda c: dense_toeplitz(c, jnp.roll(c[::-1], 1)),
        [np.r_[4, cases.normal(0, N - 1)]],
    ),
    "covariance": (
        operators.toeplitz,
        lambda c: dense_toeplitz(c, c),
        [np.exp(-np.arange(N) / 2)],
    ),
    "toeplitz": (
        lambda c, r: operators.toeplitz(c, r.at[0].set(c[0])),
        dense_toeplitz,
        [np.r_[4, cases.normal(0, N - 1)], np.r_[0, cases.normal(1, N - 1)]],
    ),
    "kronecker": (operators.kronecker, jnp.kron, [regular(2), regular(3, 1)]),
    "low-rank update": (
        operators.low_rank_update,
        lambda d, u, v: jnp.diag(d) + u @ v.T,
        [1.5 + np.arange(N), *cases.normal(2, 2, N, 2)],
    ),
    "symmetric update": (
        operators.low_rank_update,
        lambda d, u: jnp.diag(d) + u @ u.T,
        [1.5 + np.arange(N), cases.normal(2, N, 2)],
    ),
    "banded": (operators.banded, dense_banded, [cases.normal(0, 5, N)]),
    "tridiagonal": (
        operators.banded,
        dense_banded,
        [cases.normal(1, 3, N) + np.asarray([[0], [4], [0]])],
    ),
    "givens": (lambda t: operators.givens(N, 1, 3, t), dense_givens, [np.asarray(0.7)]),
    "householder": (
        operators.householder,
        lambda v: jnp.eye(N) - 2 * jnp.outer(v, v) / (v @ v),
        [cases.normal(0, N)],
    ),
    "cayley": (
        operators.cayley,
        lambda p: jnp.linalg.solve(jnp.eye(N) + skew(p), jnp.eye(N) - skew(p)),
        [cases.normal(0, N, N)],
    ),
    "orthogonal": (
        operators.orthogonal,
        lambda p: jax.scipy.linalg.expm(skew(p)),
        [cases.normal(0, N, N)],
    ),
}


def summary(A, b):
    """Product, transpose, solve of both and logdet in one number that is curved in each."""
    parts = [A @ b, A.solve(b)] + ([] if A.symmetric else [A.T @ b, A.T.solve(b)])
    return _number(parts, b) + A.logdet()


def _number(parts, b):
    weights = np.arange(1.0, 1 + len(b))
    return sum((w + 1) * jnp.sin(x) @ weights for w, x in enumerate(parts))


def reference(a, b, symmetric):
    """The same in numpy."""
    parts = [a @ b, np.linalg.solve(a, b)]
    parts += [] if symmetric else [a.T @ b, np.linalg.solve(a.T, b)]
    weights = np.arange(1.0, 1 + len(b))
    value = sum((w + 1) * np.sin(x) @ weights for w, x in enumerate(parts))
    return value + np.linalg.slogdet(a)[1]


STENCIL = np.asarray([-2, -1, 1, 2]), np.asarray([1, -8, 8, -1]) / 12


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("x64")
def test_derivatives_to_second_order_are_those_of_the_matrix(name):
    build, dense, params = PAIRS[name]
    dense = jax.jit(dense)
    A = build(*(jnp.asarray(p) for p in params))
    args = (*params, cases.normal(9, A.space_in.size))
    # directions without any symmetry: symmetric at the point is not symmetric along the path
    u, w = ([cases.normal(s + i, *p.shape) for i, p in enumerate(args)] for s in (20, 30))

    @jax.jit
    def second(args):
        gradient = jax.grad(lambda *a: summary(build(*a[:-1]), a[-1]), tuple(range(len(args))))
        return jax.jvp(gradient, args, tuple(map(jnp.asarray, u)))

    def f(s, t):
        *p, b = (x + s * y + t * z for x, y, z in zip(args, u, w))
        return reference(np.asarray(dense(*p)), b, A.symmetric)

    h, (at, c) = 1e-3, STENCIL
    gradient, curved = second(tuple(map(jnp.asarray, args)))
    along_u, along_w, both = (
        sum(np.vdot(x, y) for x, y in zip(parts, direction))
        for parts, direction in ((gradient, u), (gradient, w), (curved, w))
    )
    tol = dict(rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(along_u, sum(c * [f(h * i, 0) for i in at]) / h, **tol)
    np.testing.assert_allclose(along_w, sum(c * [f(0, h * i) for i in at]) / h, **tol)
    grid = np.asarray([[f(h * i, h * j) for j in at] for i in at])
    np.testing.assert_allclose(both, c @ grid @ c / h**2, **tol)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_finite_differences(name):
    build, _, params = PAIRS[name]
    params = [jnp.asarray(p, jnp.float64) for p in params]
    b = jnp.asarray(cases.normal(9, build(*params).space_in.size))
    # off the symmetric matrices, a factorization that reads one half has other values
    halves = (lambda a: (a + a.T) / 2) if name == "psd matrix" else lambda a: a
    f = jax.jit(lambda *p: summary(build(*map(halves, p)), b))
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


def test_a_singular_circulant_says_so_and_has_no_finite_derivative():
    column = jnp.asarray([1.0, -0.5, 0.0, -0.5])  # its sum is the first mode

    def ends(c):
        A = operators.circulant(c)
        return A.solve(jnp.asarray([1.0, 2.0, -3.0, 5.0])), A.logdet()

    x, logdet = ends(column)
    assert not jnp.isfinite(x).any()
    assert logdet == -jnp.inf
    for part in (0, 1):
        gradient = jax.grad(lambda c, part=part: ends(c)[part].sum())(column)
        assert not jnp.isfinite(gradient).any()


def test_a_zero_on_the_diagonal_divides():
    A = operators.from_diagonal(jnp.asarray([0.0, 2.0]))
    assert A.solve(jnp.asarray([1.0, 2.0])).tolist() == [jnp.inf, 1.0]
    assert A.logdet() == -jnp.inf


def test_a_reflection_at_the_zero_vector_is_the_identity_with_derivative_zero():
    x = jnp.arange(1.0, 4.0)

    def f(v):
        return ((operators.householder(v) @ x) ** 2 * x).sum()

    v = jnp.zeros(3)
    assert (operators.householder(v) @ x).tolist() == x.tolist()
    assert jax.grad(f)(v).tolist() == [0.0] * 3
    assert jax.hessian(f)(v).tolist() == [[0.0] * 3] * 3
    tiny = operators.householder(jnp.asarray([1e-30, 0.0, 0.0])) @ x  # its square is 0 in float32
    np.testing.assert_allclose(tiny, [-1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", ["givens", "householder", "cayley", "orthogonal"])
@pytest.mark.usefixtures("x64")
def test_orthogonal_maps_keep_lengths(name):
    build, _, params = PAIRS[name]
    q = build(*(jnp.asarray(p) for p in params)).dense()
    np.testing.assert_allclose(q @ q.T, np.eye(N), atol=1e-14)


def test_trees_have_diagonals_too():
    A = operators.from_diagonal({"a": jnp.asarray([2.0]), "b": jnp.asarray([[4.0, 5.0]])})
    x = A.solve({"a": jnp.ones(1), "b": jnp.ones((1, 2))})
    assert x["b"].tolist() == [[0.25, jnp.float32(0.2)]]
    np.testing.assert_allclose(A.shift(1.0).logdet(), np.log(3 * 5 * 6), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_matrices_work(n):
    c, b = cases.normal(0, n) + 3 * np.eye(n)[0], cases.normal(1, n)
    builders = {
        "toeplitz": (operators.toeplitz, scipy.linalg.toeplitz(c)),
        "circulant": (operators.circulant, scipy.linalg.circulant(c)),
        "banded": (lambda c: operators.banded(c[None]), np.diag(c)),
    }
    for build, matrix in builders.values():
        A = build(jnp.asarray(c, jnp.float32))
        np.testing.assert_allclose(A @ b, matrix @ b, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(A.solve(b), np.linalg.solve(matrix, b), rtol=1e-4, atol=1e-5)
