"""Derivatives at ties, zeros and deficient ranks, against differences of numpy in float64."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import linalg

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks"))
import _differences
import _ties

ROWS = {row.name: row for row in _ties.rows()}
QUICK = ("nuclear norm", "determinant")


def assert_right(row, dtype, shapes):
    name = jnp.dtype(dtype).name
    judged = 0
    for shape in shapes:
        for v in _differences.judge(row, shape, row.ours, dtype):
            assert v.finite, (row.name, v)
            if v.error is not None:
                judged += 1
                assert v.error < _differences.TOLERANCE[name][v.order - 1], (row.name, v)
    assert judged >= 6


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.usefixtures("x64")
def test_derivatives_are_right_to_second_order_at_every_tie(name):
    assert_right(ROWS[name], jnp.float64, ROWS[name].shapes[:1])  # square


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.usefixtures("x64")
def test_the_whole_table_is_right(name, dtype):
    assert_right(ROWS[name], jnp.dtype(dtype), ROWS[name].shapes)


MODES = {
    "forward over reverse": (jax.jacfwd, jax.jacrev),
    "reverse over reverse": (jax.jacrev, jax.jacrev),
    "forward over forward": (jax.jacfwd, jax.jacfwd),
    "reverse over forward": (jax.jacrev, jax.jacfwd),
}
W = cases.normal(4, 4, 4)
TIED = {
    "square": cases.symmetric([3.0, 3.0, 1.0, 1.0], 1) @ cases.symmetric([1.0, -1.0, 1.0, 1.0], 2),
    "tall": _ties.turned([2.0, 2.0, 1.0], 4, 3),
}
FUNCTIONS = {
    "projector": lambda a: linalg.projector(a, 2),
    "low_rank": lambda a: linalg.low_rank_approximation(a, 2),
    "polar": linalg.polar,
    "eigenspace": lambda a: (lambda v: v @ v.T)(linalg.eigenspace(a @ a.T, 2).v),
    "spectral_sum": lambda a: linalg.spectral_sum(lambda s: jnp.log1p(s**2), a),
    "matrix_function": lambda a: linalg.matrix_function(jnp.exp, a @ a.T / 4),
    "sqrtm": lambda a: linalg.sqrtm(a.T @ a),
    "pinv": linalg.pinv,
}


@pytest.mark.parametrize("name", cases.often(FUNCTIONS, ("projector", "polar", "spectral_sum")))
@pytest.mark.usefixtures("x64")
def test_all_modes_agree_at_second_order_in_directions_that_are_not_symmetric(name):
    f, a = FUNCTIONS[name], jnp.asarray(TIED["tall"])

    def scalar(a):
        y = f(a)
        return jnp.sum(y * W[tuple(slice(n) for n in y.shape)] if y.ndim else y)

    def along(t):  # two directions, so that a Hessian is 2 x 2
        return scalar(a + t[0] * cases.normal(5, 4, 3) + t[1] * cases.normal(6, 4, 3))

    modes = lambda t: [outer(inner(along))(t) for outer, inner in MODES.values()]
    found = jax.jit(modes)(jnp.zeros(2))
    h = 1e-3
    e = np.eye(2) * h
    for x in found[1:]:
        np.testing.assert_allclose(x, found[0], rtol=1e-8, atol=1e-9)
    gradient = jax.jit(jax.grad(along))
    slope = [gradient(jnp.asarray(s * e[i])) for i in (0, 1) for s in (2, 1, -1, -2)]
    true = [(8 * (s[1] - s[2]) - (s[0] - s[3])) / (12 * h) for s in (slope[:4], slope[4:])]
    np.testing.assert_allclose(found[0], true, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("x64")
def test_subspaces_are_right_to_third_order_at_block_ties():
    """The third derivative along a line, against fifth-order differences of the second."""
    a, e = jnp.asarray(_ties.turned([2.0, 2.0, 1.0, 1.0], 4, 4)), jnp.asarray(W)

    def along(t):
        b = a + t * e
        return jnp.sum(linalg.low_rank_approximation(b, 2) * e)

    second = jax.jit(jax.grad(jax.grad(along)))
    third = jax.jit(jax.grad(jax.grad(jax.grad(along))))(0.0)
    h = 1e-3
    near, far = second(h) - second(-h), second(2 * h) - second(-2 * h)
    np.testing.assert_allclose(third, (8 * near - far) / (12 * h), rtol=1e-6)


@pytest.mark.parametrize(
    "f", [lambda a: linalg.spectral_sum(jnp.cosh, a), lambda a: linalg.matrix_function(jnp.cosh, a)]
)
def test_a_third_derivative_that_would_be_wrong_is_refused(f):
    along = lambda t: f(t * jnp.eye(2)).sum()
    with pytest.raises(NotImplementedError, match="second order, not beyond"):
        jax.jit(jax.grad(jax.grad(jax.grad(along))))(1.0)


@pytest.mark.usefixtures("x64")
def test_low_rank_at_full_rank_is_the_identity_and_at_the_rank_a_projection():
    a = jnp.asarray(_ties.turned([3.0, 2.0, 0, 0], 5, 4))
    w = jnp.asarray(cases.normal(3, 5, 4))
    gradient = lambda k: jax.jit(
        jax.grad(lambda a: jnp.sum(w * linalg.low_rank_approximation(a, k)))
    )
    full = gradient(4)(a)
    np.testing.assert_array_equal(full, w)
    u, _, vt = np.linalg.svd(a, full_matrices=False)
    p, q = u[:, :2] @ u[:, :2].T, vt[:2].T @ vt[:2]
    np.testing.assert_allclose(
        gradient(2)(a), w - (np.eye(5) - p) @ w @ (np.eye(4) - q), atol=1e-12
    )


@pytest.mark.usefixtures("x64")
def test_gradients_turn_with_the_matrix_at_ties():
    a, q, p = (
        jnp.asarray(x) for x in (np.diag([3.0, 2, 2]), _ties.orthogonal(3), _ties.orthogonal(3))
    )
    for f in (linalg.nuclear_norm, lambda a: linalg.spectral_sum(jnp.cosh, a)):
        gradient = jax.jit(jax.grad(f))
        np.testing.assert_allclose(gradient(q @ a @ p), q @ gradient(a) @ p, atol=1e-12)


@pytest.mark.parametrize("exponent", [66, -66])
@pytest.mark.parametrize("name", ["low_rank", "nuclear_norm", "projector"])
def test_derivatives_scale_exactly_with_powers_of_two(name, exponent):
    f = {
        "low_rank": lambda a: jnp.sum(linalg.low_rank_approximation(a, 2) * jnp.float32(W)),
        "nuclear_norm": linalg.nuclear_norm,
        "projector": lambda a: jnp.sum(linalg.projector(a, 2) * a),
    }[name]
    a = jnp.asarray(_ties.turned([2.0, 2.0, 1.0, 1.0], 4, 4), jnp.float32)
    c = jnp.ldexp(jnp.float32(1), exponent)
    slope = jax.jit(jax.grad(f))
    bend = jax.jit(lambda a, e: jax.jvp(jax.grad(f), (a,), (e,))[1])
    np.testing.assert_array_equal(slope(c * a), slope(a))
    e = jnp.asarray(W, jnp.float32)
    np.testing.assert_array_equal(bend(c * a, c * e), bend(a, e))


@pytest.mark.parametrize(
    "mode", cases.often(MODES, ("forward over reverse", "reverse over reverse"))
)
@pytest.mark.usefixtures("x64")
def test_a_function_is_differentiated_in_what_it_closes_over_at_ties_in_every_mode(mode):
    """The cube of A scaled by t, once of a matrix function and once by products."""
    q = np.linalg.qr(cases.normal(0, 3, 3))[0]
    a = jnp.asarray(q @ np.diag([3.0, 2.0, 2.0]) @ q.T)

    def found(t, a):
        return jnp.sum(linalg.matrix_function(lambda w: (t * w) ** 3, a) * W[:3, :3])

    def true(t, a):
        a = t * (a + a.T) / 2
        return jnp.sum(a @ a @ a * W[:3, :3])

    truth = jax.tree.leaves(jax.jit(jax.hessian(true, argnums=(0, 1)))(0.7, a))
    outer, inner = MODES[mode]
    second = jax.jit(outer(inner(found, argnums=(0, 1)), argnums=(0, 1)))(0.7, a)
    for x, y in zip(jax.tree.leaves(second), truth):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-9)
