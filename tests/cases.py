"""Cases that several test files share: spectra, losses of small nets, operators and their matrices.

Values are float64 of numpy; a test casts them. A new operator joins ``OPERATORS`` by one line.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from funcdl import curvature, losses, operators
from funcdl.data import Batches

SPECTRA = {
    "random": np.random.default_rng(1).normal(size=30),
    "low rank": np.r_[5.0, -4.0, 3.0, np.zeros(27)],
    "multiple": np.r_[3.0, 3.0, -2.0, -2.0, -2.0, np.linspace(-1, 1, 25)],
    "identity": np.ones(30),
    "zero": np.zeros(30),
    "graded": 2.0 ** -np.arange(30),
    "1x1": np.asarray([-2.0]),
    "2x2": np.asarray([1.0, -3.0]),
}


def often(names, few) -> list:
    """Mark all but a few slow: what is repeated for every name is run of the few each time."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in few)) for name in names]


@contextlib.contextmanager
def optimized():
    """Compile as users do, also where the suite asks XLA to be quick."""
    quick = bool(os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS"))
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", quick)


def symmetric(values, seed=0) -> np.ndarray:
    """Make a symmetric matrix with these eigenvalues."""
    n = len(values)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    a = (q * values) @ q.T
    return (a + a.T) / 2


def normal(seed, *shape) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def cast(tree, dtype):
    """Move a tree of numpy arrays to jax; integers and booleans stay what they are."""

    def real(x):
        return np.issubdtype(x.dtype, np.floating)

    return jax.tree.map(lambda x: jnp.asarray(x, dtype if real(x) else None), tree)


class Problem(NamedTuple):
    """A loss as a user brings it; ``data`` is one batch, or ``None``."""

    loss: Callable
    params: dict
    data: dict | tuple | None

    def cast(self, dtype) -> "Problem":
        return Problem(self.loss, cast(self.params, dtype), cast(self.data, dtype))


def rosenbrock(x):
    return (100 * (x["b"] - x["a"] ** 2) ** 2 + (1 - x["a"]) ** 2).sum() + x["c"][0] ** 4 * x["b"][
        1
    ]


def net(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(jnp.matmul(x, layer["kernel"]) + layer["bias"][None])
    return jnp.matmul(x, params[-1]["kernel"])


def regression(params, batch):
    x, y = batch
    return losses.squared_error(net(params, x)[:, 0], y)


def classification(params, batch):
    return losses.softmax_cross_entropy(net(params, batch["x"]), batch["label"])


def tokens(params, batch):
    """A language model of one layer; the padding is masked, so examples weigh differently."""
    x = params["embedding"][batch["tokens"]]
    logits = jnp.matmul(
        jax.nn.softplus(jnp.matmul(x, params["out"]["kernel"])), params["embedding"].T
    )
    return losses.masked_softmax_cross_entropy(logits, batch["next"], batch["mask"])


def _net(*sizes, seed=3):
    layers = [
        {"kernel": normal(seed + i, m, n) / m**0.5, "bias": normal(seed + 10 + i, n) / 5}
        for i, (m, n) in enumerate(itertools.pairwise(sizes))
    ]
    return [*layers[:-1], {"kernel": layers[-1]["kernel"]}]


def _tokens():
    draw = np.random.default_rng(5)
    ids = draw.integers(0, 5, size=(7, 5))
    mask = np.arange(4)[None] < np.asarray([4, 1, 3, 2, 4, 1, 2])[:, None]
    return {"tokens": ids[:, :-1], "next": np.where(mask, ids[:, 1:], -1), "mask": mask}


LOSSES = {
    "no data": Problem(
        rosenbrock, {"a": normal(0, 3), "b": normal(1, 3), "c": np.asarray([0.5])}, None
    ),
    "regression": Problem(regression, _net(3, 4, 1), (normal(7, 7, 3), normal(8, 7))),
    "classification": Problem(
        classification, _net(4, 3, 3), {"x": normal(9, 7, 4), "label": np.arange(7) % 3}
    ),
    "masked tokens": Problem(
        tokens, {"embedding": normal(11, 5, 3), "out": {"kernel": normal(12, 3, 3)}}, _tokens()
    ),
}


def mean_loss(problem: Problem) -> Callable:
    """Return the scalar loss of all the data as a function of the raveled parameters."""
    unravel = ravel_pytree(problem.params)[1]
    args = () if problem.data is None else (problem.data,)

    def flat(x):
        y = problem.loss(unravel(x), *args)
        return y.total / y.weight if isinstance(y, losses.Mean) else y

    return flat


@functools.cache
def dense_hessian(name: str, seed: int = 0) -> np.ndarray:
    """Differentiate twice in float64: the reference for every precision."""
    with jax.enable_x64(True):
        problem = moved(name, seed).cast(jnp.float64)
        flat = ravel_pytree(problem.params)[0]
        return np.asarray(jax.jit(jax.hessian(mean_loss(problem)))(flat))


def moved(name: str, seed: int) -> Problem:
    """Return a problem at other parameters of the same shapes."""
    problem = LOSSES[name]
    return problem._replace(params=jax.tree.map(lambda x: x + seed / 64, problem.params))


class Known(NamedTuple):
    """An operator and its matrix."""

    operator: operators.LinearOperator
    matrix: np.ndarray


LIKE = {"x": [jnp.zeros(2), jnp.zeros((2, 2))]}


def _apply(matrix, v):
    y = matrix @ ravel_pytree(v)[0]
    return {"u": y[:1], "w": y[1:].reshape(-1, 1)}


def _apply_square(matrix, v):
    flat, unravel = ravel_pytree(v)
    return unravel(matrix @ flat)


def plain(seed) -> Known:
    a = normal(seed, 4, 6)
    return Known(operators.from_dense(jnp.asarray(a, jnp.float32)), a)


def marked(seed) -> Known:
    a = symmetric(normal(seed, 6), seed)
    return Known(operators.from_dense(jnp.asarray(a, jnp.float32), symmetric=True), a)


def function(seed) -> Known:
    a = normal(seed, 4, 6)
    return Known(operators.from_function(Partial(_apply, jnp.asarray(a, jnp.float32)), LIKE), a)


def symmetric_function(seed) -> Known:
    a = symmetric(normal(seed, 6) ** 2, seed)
    f = Partial(_apply_square, jnp.asarray(a, jnp.float32))
    return Known(operators.from_function(f, LIKE, psd=True), a)


def written_out(seed, make) -> Known:
    a, dense = make(seed)
    return Known(operators.materialize(a), dense)


def hessian(seed, name="regression", size=None) -> Known:
    problem = moved(name, seed).cast(jnp.float32)
    data = problem.data if size is None else Batches(problem.data, size)
    a = curvature.hessian(problem.loss, problem.params, data)
    return Known(a, dense_hessian(name, seed))


def _derived(f: Callable, *parts: Callable) -> Callable:
    def build(seed) -> Known:
        known = [part(seed + i) for i, part in enumerate(parts)]
        return Known(f(*(k.operator for k in known)), f(*(_Matrix(k.matrix) for k in known)).a)

    return build


class _Matrix:
    """What an operator should do, on its matrix."""

    def __init__(self, a):
        self.a, self.T = a, None if a is None else _Transposed(a)

    def __add__(self, other):
        return _Matrix(self.a + other.a)

    def __sub__(self, other):
        return _Matrix(self.a - other.a)

    def __neg__(self):
        return _Matrix(-self.a)

    def __rmul__(self, c):
        return _Matrix(float(c) * self.a)

    def __matmul__(self, other):
        return _Matrix(self.a @ other.a)

    def shift(self, c):
        return _Matrix(self.a + float(c) * np.eye(len(self.a)))

    def inv(self, c=0.0):
        return _Matrix(np.linalg.inv(self.shift(c).a))


class _Transposed(_Matrix):
    def __init__(self, a):
        self.a = a.T


def _float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def regular(seed) -> Known:
    a = normal(seed, 6, 6) + 3 * np.eye(6)
    return Known(operators.from_dense(*_float32(a)), a)


def definite(seed) -> Known:
    a = symmetric(1 + normal(seed, 6) ** 2, seed)
    return Known(operators.from_dense(*_float32(a), psd=True), a)


def diagonal(seed) -> Known:
    d = np.r_[-1.0, 2.0, np.exp(normal(seed, 4))]
    return Known(operators.from_diagonal(*_float32(d)), np.diag(d))


def circulant(seed) -> Known:
    c = np.r_[4.0, normal(seed, 5)]
    return Known(operators.circulant(*_float32(c)), scipy.linalg.circulant(c))


def toeplitz(seed, m=7, n=5) -> Known:
    c, r = normal(seed, m), normal(seed + 1, n)
    c[0] = r[0] = 3 + (m == n) * m / 2
    return Known(operators.toeplitz(*_float32(c, r)), scipy.linalg.toeplitz(c, r))


def covariance(seed, n=6) -> Known:
    c = np.exp(-np.arange(n) / (2 + seed)) + 0.1 * (np.arange(n) == 0)
    return Known(operators.toeplitz(*_float32(c)), scipy.linalg.toeplitz(c))


def kronecker(seed, a=plain, b=plain) -> Known:
    a, b = a(seed), b(seed + 1)
    return Known(operators.kronecker(a.operator, b.operator), np.kron(a.matrix, b.matrix))


def kronecker_of_regular(seed) -> Known:
    return kronecker(seed, regular, definite)


def low_rank(seed) -> Known:
    base, (u, v) = diagonal(seed), normal(seed, 2, 6, 2)
    a = operators.low_rank_update(base.operator, *_float32(u, v))
    return Known(a, base.matrix + u @ v.T)


def banded(seed, half=2, n=7) -> Known:
    """The middle is small, so that elimination has to change rows."""
    ab = normal(seed, 2 * half + 1, n)
    a = sum(np.diag(ab[half - o, max(o, 0) : n + min(o, 0)], o) for o in range(-half, half + 1))
    return Known(operators.banded(*_float32(ab)), a)


def givens(seed) -> Known:
    a, angle = np.eye(5), 0.3 + seed
    a[np.ix_([1, 3], [1, 3])] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Known(operators.givens(5, 1, 3, jnp.float32(angle)), a)


def householder(seed) -> Known:
    v = normal(seed, 5)
    return Known(operators.householder(*_float32(v)), np.eye(5) - 2 * np.outer(v, v) / (v @ v))


def cayley(seed) -> Known:
    p = normal(seed, 5, 5)
    s = (p - p.T) / 2
    a = np.linalg.solve((np.eye(5) + s).T, (np.eye(5) - s).T).T
    return Known(operators.cayley(*_float32(p)), a)


def orthogonal(seed) -> Known:
    p = normal(seed, 5, 5)
    return Known(operators.orthogonal(*_float32(p)), scipy.linalg.expm((p - p.T) / 2))


def _output(params, batch):
    return net(params, batch["x"])


def _entropy(z, batch):
    return losses.softmax_cross_entropy(z, batch["label"])


@functools.cache
def kfac(seed, build=curvature.kfac) -> Known:
    """Of one example it is the block-diagonal of the Gauss-Newton matrix."""
    problem = moved("classification", seed)
    one = jax.tree.map(lambda x: x[seed : seed + 1], problem.data)
    with jax.enable_x64(True):
        problem, batch = problem.cast(jnp.float64), cast(one, jnp.float64)
        flat, unravel = ravel_pytree(problem.params)
        z = lambda x: _output(unravel(x), batch)[0]
        jacobian = jax.jacrev(z)(flat)
        bend = jax.hessian(lambda z: _entropy(z[None], batch))(z(flat))
        whole = np.asarray(jacobian.T @ bend @ jacobian)
    sizes = [x.size for x in jax.tree.leaves(problem.params)]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    args = cast((moved("classification", seed).params, one), jnp.float32)
    return Known(build(_output, _entropy, *args), whole * (owner[:, None] == owner[None]))


OPERATORS = {
    "matrix": plain,
    "symmetric matrix": marked,
    "function": function,
    "symmetric function": symmetric_function,
    "sum": _derived(lambda a, b: a + b, function, function),
    "difference": _derived(lambda a, b: a - b, marked, marked),
    "multiple": _derived(lambda a: jnp.float32(-2.5) * a, function),
    "negative": _derived(lambda a: -a, marked),
    "transpose": _derived(lambda a: a.T, function),
    "product": _derived(lambda a, b: a @ b.T, plain, plain),
    "gram": _derived(lambda a: a.T @ a, function),
    "shift": _derived(lambda a: a.shift(0.5), symmetric_function),
    "ridge": _derived(lambda a: 2 * (a.T @ a).shift(jnp.float32(0.5)), function),
    "hessian": hessian,
    "hessian over batches": lambda seed: hessian(seed, size=3),
    "regular matrix": regular,
    "definite matrix": definite,
    "written out": lambda seed: written_out(seed, function),
    "symmetric, written out": lambda seed: written_out(seed, symmetric_function),
    "diagonal": diagonal,
    "circulant": circulant,
    "toeplitz": toeplitz,
    "square toeplitz": lambda seed: toeplitz(seed, 6, 6),
    "toeplitz by Fourier": lambda seed: toeplitz(seed, 130, 150),
    "covariance": covariance,
    "kronecker": kronecker,
    "square kronecker": kronecker_of_regular,
    "kronecker of structures": lambda seed: kronecker(seed, covariance, circulant),
    "low-rank update": low_rank,
    "banded": banded,
    "tridiagonal": lambda seed: banded(seed, half=1),
    "givens": givens,
    "householder": householder,
    "cayley": cayley,
    "orthogonal": orthogonal,
    "solvable transpose": _derived(lambda a: a.T, banded),
    "solvable product": _derived(lambda a, b: a @ b.T, regular, circulant),
    "solvable multiple": _derived(lambda a: jnp.float32(-2.5) * a, low_rank),
    "solvable shifts": _derived(
        lambda a, b: a.shift(jnp.float32(0.5)) @ b.shift(2.0), low_rank, circulant
    ),
    "inverse": _derived(lambda a: a.inv(), kronecker_of_regular),
    "inverse of a shift": _derived(
        lambda a, b: a.inv(0.5) @ b.inv(jnp.float32(2.0)).T, low_rank, circulant
    ),
    "shift of a multiple": _derived(lambda a: (2 * a).shift(0.5), circulant),
    "kfac": _derived(lambda a: a.shift(0.5), kfac),
    "ekfac": _derived(lambda a: (2 * a).shift(0.5), lambda seed: kfac(seed, curvature.ekfac)),
    "inverse of kfac": _derived(lambda a: a.inv(jnp.float32(0.5)), kfac),
    "more shifts": _derived(
        lambda a, b: a.shift(jnp.float32(0.5)).T @ b.shift(2.0), covariance, regular
    ),
}


def check_second(f, args, tol=1e-5, step=1e-4):
    """Check derivatives to second order in every nesting of the modes against differences.

    As ``check_grads`` of order 2, of one random combination of all outputs, in two random
    directions; all in one program, so that the compiler runs once and not a dozen times.
    """
    x, unravel = ravel_pytree(jax.tree.map(jnp.asarray, args))
    assert x.dtype == jnp.float64
    outputs = jax.tree.leaves(jax.eval_shape(f, *args))
    weights = [jnp.asarray(normal(70 + i, *y.shape)) for i, y in enumerate(outputs)]
    e, d = (jnp.asarray(normal(seed, x.size)) for seed in (80, 90))

    def value(x):
        return sum(jnp.vdot(w, y) for w, y in zip(weights, jax.tree.leaves(f(*unravel(x)))))

    def forward(g, along):
        return lambda x: jax.jvp(g, (x,), (along,))[1]

    def reverse(g, along):
        return lambda x: along @ jax.grad(g)(x)

    @jax.jit
    def all_of(x):
        first = [mode(value, e) for mode in (forward, reverse)]
        second = [mode(slope, d)(x) for slope in first for mode in (forward, reverse)]
        return value(x), jnp.stack([slope(x) for slope in first]), jnp.stack(second)

    _, first, second = all_of(x)
    ahead, back = all_of(x + step * e), all_of(x - step * e)
    close = {"rtol": tol, "atol": tol}
    np.testing.assert_allclose(first, np.full(2, (ahead[0] - back[0]) / (2 * step)), **close)
    ahead, back = all_of(x + step * d), all_of(x - step * d)
    np.testing.assert_allclose(second, np.tile((ahead[1] - back[1]) / (2 * step), 2), **close)
