"""cg, minres, lsmr and solve against dense float64: solutions, evidence, lanes, derivatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from jax.tree_util import Partial

import cases
from funcdl import _tree, operators

SPECTRA = {
    "cg": np.linspace(1, 30, 8),
    "minres": np.r_[np.linspace(1, 30, 5), -2.0, -7.0, -11.0],
    "lsmr": np.r_[np.linspace(1, 30, 5), -2.0, -7.0, -11.0],
}
METHODS = {name: getattr(operators, name) for name in SPECTRA}
each_method = pytest.mark.parametrize("name", METHODS)


def operator(a, name="cg"):
    return operators.from_function(Partial(jnp.matmul, a), a[0], symmetric=True, psd=name == "cg")


def system(name, dtype=jnp.float32):
    a, b = cases.symmetric(SPECTRA[name]), cases.normal(1, 8)
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype), np.linalg.solve(a, b)


@each_method
@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_the_solution_is_that_of_the_matrix_and_its_residual_true(name, dtype, tol):
    with jax.enable_x64(dtype is np.float64):
        a, b, expected = system(name, dtype)
        found = METHODS[name](operator(a, name), b, tol=tol)
    a, b, x = (np.asarray(z, np.float64) for z in (a, b, found.x))
    assert found.converged
    assert found.x.dtype == dtype
    assert 0 < found.steps <= 24
    true = np.linalg.norm(b - a @ x) / np.linalg.norm(b)
    np.testing.assert_allclose(found.residual, true, atol=10 * np.finfo(dtype).eps)
    np.testing.assert_allclose(x, expected, atol=40 * tol * np.abs(expected).max())
    operators.require_converged(found)


@each_method
def test_too_few_steps_say_so_and_have_no_gradient(name):
    a, b, _ = system(name)
    found = METHODS[name](operator(a, name), b, max_steps=3)
    assert not found.converged
    assert found.steps == 3
    assert 1e-4 < found.residual < 1
    assert jnp.isfinite(found.x).all()
    gradients = jax.grad(
        lambda c, b: METHODS[name](operator(c * a, name), b, max_steps=3).x.sum(), (0, 1)
    )(1.0, b)
    assert all(jnp.isnan(g).all() for g in gradients)
    with pytest.raises(operators.NotConvergedError, match="max_steps"):
        operators.require_converged(found)


@each_method
def test_a_zero_right_hand_side_takes_no_step(name):
    a, b, _ = system(name)
    found = METHODS[name](operator(a, name), 0 * b)
    assert found.x.tolist() == [0.0] * 8
    assert (found.residual, found.converged, found.steps) == (0, True, 0)


@each_method
def test_a_lane_is_the_same_bit_for_bit_whatever_the_others_are(name):
    # a diagonal: a product of matrices may round lanes in another order than one of vectors
    d = np.sign(SPECTRA[name]) if name != "cg" else 1
    spread = d * jnp.linspace(1, 40, 8)
    # how many entries are not zero is how many steps it takes
    lanes = [jnp.where(jnp.arange(8) < k, 1.0 + jnp.arange(8), 0) for k in (0, 1, 3, 5, 8)]

    def run(b):
        A = operators.from_function(
            Partial(jnp.multiply, spread), b, symmetric=True, psd=name == "cg"
        )
        return METHODS[name](A, b, tol=1e-6)

    many = jax.jit(jax.vmap(run))
    together = many(jnp.stack(lanes))
    for i, b in enumerate(lanes):
        lane, alone = jax.tree.map(lambda x, i=i: x[i], together), run(b)
        among_equals = jax.tree.map(lambda x, i=i: x[i], many(jnp.stack([b] * len(lanes))))
        for x, y in zip(lane, among_equals):
            np.testing.assert_array_equal(x, y)
        # outside of a batch XLA may round otherwise
        np.testing.assert_allclose(lane.x, alone.x, rtol=2e-5, atol=2e-6)
    assert together.steps[0] == 0
    assert together.steps[1] < together.steps[-1]
    assert together.converged.all()


@pytest.mark.parametrize("name", ["cg", "minres"])
@pytest.mark.usefixtures("x64")
def test_second_derivatives_are_right_in_directions_that_are_not_symmetric(name):
    a, b, _ = system(name, jnp.float64)
    e, d, w = (jnp.asarray(cases.normal(s, *z)) for s, z in ((2, (8, 8)), (3, (8,)), (4, (8,))))

    def ours(a, b):
        return jnp.sin(METHODS[name](operator(a, name), b, tol=1e-13).x) @ w

    def dense(a, b):
        return jnp.sin(jnp.linalg.solve(a, b)) @ w

    def second(f):
        return jax.jvp(jax.value_and_grad(f, (0, 1)), (a, b), (e, d))

    got, expected = jax.jit(lambda: second(ours))(), jax.jit(lambda: second(dense))()
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * np.abs(y).max())


@pytest.mark.slow
@each_method
@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_finite_differences(name):
    a, b, _ = system(name, jnp.float64)
    f = jax.jit(lambda a, b: METHODS[name](operator((a + a.T) / 2, name), b, tol=1e-12).x)
    check_grads(f, (a, b), order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), pytest.param((5, 5), marks=pytest.mark.slow)])
@pytest.mark.usefixtures("x64")
def test_least_squares_and_shortest_solutions_have_the_derivatives_of_their_formulas(shape):
    a, b = jnp.asarray(cases.normal(0, *shape)), jnp.asarray(cases.normal(1, shape[0]))
    e, d = jnp.asarray(cases.normal(2, *shape)), jnp.asarray(cases.normal(3, shape[0]))
    w = jnp.arange(1.0, 1 + shape[1])

    def ours(a, b):
        return jnp.sin(operators.lsmr(operators.from_dense(a), b, tol=1e-14).x) @ w

    def formula(a, b):
        tall = shape[0] >= shape[1]
        x = jnp.linalg.solve(a.T @ a, a.T @ b) if tall else a.T @ jnp.linalg.solve(a @ a.T, b)
        return jnp.sin(x) @ w

    def second(f):
        return jax.jvp(jax.value_and_grad(f, (0, 1)), (a, b), (e, d))

    got, expected = jax.jit(lambda: second(ours))(), jax.jit(lambda: second(formula))()
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9 * np.abs(y).max())


@pytest.mark.usefixtures("x64")
def test_a_matrix_without_full_rank_gives_the_shortest_minimiser_and_no_derivative():
    left, right = cases.normal(0, 5, 2), cases.normal(1, 2, 5)
    a, b = jnp.asarray(left @ right), jnp.asarray(cases.normal(2, 5))
    found = operators.lsmr(operators.from_dense(a), b, tol=1e-12)
    assert found.converged
    assert found.residual > 0.1
    np.testing.assert_allclose(found.x, np.linalg.pinv(a, rcond=1e-10) @ b, rtol=1e-8, atol=1e-8)
    gradient = jax.grad(lambda a: operators.lsmr(operators.from_dense(a), b, tol=1e-12).x.sum())(a)
    assert jnp.isnan(gradient).all()
    inside = a @ b  # in the range
    gradient = jax.grad(
        lambda a: operators.lsmr(operators.from_dense(a), inside, tol=1e-12).x.sum()
    )(a)
    assert jnp.isnan(gradient).all()


def test_a_right_hand_side_outside_of_the_range_takes_no_step():
    A = operators.from_dense(jnp.asarray([[1.0], [0.0]]))
    found = operators.lsmr(A, jnp.asarray([0.0, 2.0]))
    assert (found.x.tolist(), found.residual, found.converged, found.steps) == ([0.0], 1, True, 0)


def test_cg_flags_what_is_not_positive_definite():
    a, b = jnp.diag(jnp.asarray([1.0, -1.0])), jnp.ones(2)
    found = operators.cg(operator(a), b)
    assert not found.converged
    assert found.steps == 1
    assert operators.minres(operator(a, "minres"), b).converged


def test_a_system_without_solution_does_not_converge():
    a, b = jnp.diag(jnp.asarray([1.0, 0.0])), jnp.ones(2)
    for name, x in (("cg", None), ("minres", None), ("lsmr", [1.0, 0.0])):
        found = METHODS[name](operator(a, name), b, max_steps=20)
        assert found.converged == (x is not None)
        if x:
            np.testing.assert_allclose(found.x, x, atol=1e-6)
    nothing = METHODS["cg"](operator(a * jnp.nan), b)
    assert not nothing.converged


@pytest.mark.parametrize("seed", range(3))
def test_minres_ends_at_the_least_residual_where_the_matrix_is_singular(seed):
    a = cases.symmetric(np.r_[cases.normal(seed, 30), np.zeros(10)])
    b = cases.normal(seed + 9, 40)
    least = np.linalg.norm(b - a @ np.linalg.pinv(a, rcond=1e-10) @ b) / np.linalg.norm(b)
    found = operators.minres(operator(jnp.asarray(a, jnp.float32), "minres"), jnp.asarray(b))
    assert not found.converged
    assert found.steps < 300
    np.testing.assert_allclose(found.residual, least, rtol=0.01)


@each_method
def test_a_preconditioner_changes_the_way_and_not_the_solution(name):
    n = 40
    d = jnp.logspace(0, 4, n) * jnp.asarray(np.resize([1, 1 if name == "cg" else -1], n))
    a = jnp.diag(d) + 0.1 * jnp.ones((n, n))
    b = jnp.asarray(cases.normal(0, n), jnp.float32)
    A, P = operator(a, name), operators.from_diagonal(1 / jnp.abs(d))
    plain, quick = (METHODS[name](A, b, tol=1e-5, precondition=p) for p in (None, P))
    assert quick.converged
    assert quick.steps < plain.steps / 2
    expected = np.linalg.solve(np.asarray(a, np.float64), b)
    np.testing.assert_allclose(quick.x, expected, rtol=1e-2, atol=2e-4)
    if name == "cg":
        assert jax.grad(lambda c: operators.cg(A, b, precondition=c * P).x.sum())(1.0) == 0


@pytest.mark.usefixtures("x64")  # in float32 the condition 1e4 leaves no digits to compare
def test_an_inverse_that_solves_is_a_preconditioner():
    """As K-FAC's: the Kronecker product comes near the matrix, its inverse is known."""
    factors = [cases.symmetric(np.logspace(-1, 1, n), n) for n in (5, 8)]
    near = operators.kronecker(*(jnp.asarray(f) for f in factors))
    change = jnp.asarray(cases.normal(0, 40, 3) / 20)
    A = operators.from_function(Partial(_near_kronecker, near, change), jnp.zeros(40), psd=True)
    M = operators.from_function(Partial(type(near).solve, near), jnp.zeros(40), psd=True)
    b = jnp.asarray(cases.normal(1, 40))
    plain, quick = (operators.cg(A, b, tol=1e-9, precondition=p) for p in (None, M))
    assert quick.converged
    assert quick.steps <= 12 < 40 <= plain.steps
    dense = np.kron(*factors) + np.float64(change @ change.T)
    np.testing.assert_allclose(dense @ np.float64(quick.x), b, atol=1e-6)
    slope = jax.jit(jax.grad(lambda b: operators.cg(A, b, precondition=M).x @ b))(b)
    np.testing.assert_allclose(slope, 2 * operators.cg(A, b, precondition=M).x, rtol=1e-6)


def _near_kronecker(near, change, v):
    return near @ v + change @ (change.T @ v)


@pytest.mark.parametrize("name", cases.often(METHODS, ("cg",)))
@pytest.mark.usefixtures("x64")
def test_second_derivatives_are_the_same_in_all_modes_and_mapped(name):
    a = jnp.asarray(cases.symmetric([3.0, 2.0, 1.0 if name == "cg" else -1.0]))
    b = jnp.asarray(cases.normal(0, 3))

    def f(b):
        return (METHODS[name](operator(a, name), b, tol=1e-12).x ** 4).sum()

    x = np.linalg.solve(a, b)
    inverse = np.linalg.inv(a)
    expected = inverse.T @ np.diag(12 * x**2) @ inverse
    modes = list(itertools.product((jax.jacfwd, jax.jacrev), repeat=2))
    for found in jax.jit(lambda b: [outer(inner(f))(b) for outer, inner in modes])(b):
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_solve_asks_the_operator_how():
    d = jnp.asarray([1.0, 2.0, 4.0])
    closed = operators.solve(operators.from_diagonal(d), d)
    assert (closed.steps, closed.converged, closed.x.tolist()) == (0, True, [1.0] * 3)
    hidden = Partial(jnp.multiply, d)
    for flags in ({"psd": True}, {"symmetric": True}, {}):
        found = operators.solve(operators.from_function(hidden, d, **flags), d)
        assert found.converged
        assert found.steps >= 3
        np.testing.assert_allclose(found.x, 1, rtol=1e-4)
    tall = operators.solve(operators.from_dense(jnp.ones((2, 1))), jnp.asarray([1.0, 3.0]))
    np.testing.assert_allclose(tall.x, 2, rtol=1e-5)
    singular = operators.solve(operators.from_diagonal(jnp.zeros(3)), d)
    assert not singular.converged


def test_trees_are_solved_as_trees():
    A, matrix = cases.symmetric_function(0)
    A, matrix = A.shift(1.0), matrix + np.eye(6)
    b = _tree.ravel(A.shape_in)[1](jnp.asarray(cases.normal(1, 6), jnp.float32))
    for name in METHODS:
        found = METHODS[name](A, b)
        assert jax.tree.structure(found.x) == jax.tree.structure(b)
        x = _tree.ravel(A.shape_in)[0](found.x)
        np.testing.assert_allclose(x, np.linalg.solve(matrix, cases.normal(1, 6)), rtol=2e-3)


def test_new_data_do_not_retrace():
    traces = 0

    def product(a, v):
        nonlocal traces
        traces += 1
        return a @ v

    for seed in (0, 1, 2):
        a = jnp.asarray(cases.symmetric(SPECTRA["cg"], seed), jnp.float32)
        A = operators.from_function(Partial(product, a), a[0], psd=True)
        for name in METHODS:
            METHODS[name](A, a[seed], tol=10.0 ** -(3 + seed), max_steps=20 + seed)
        if seed == 0:
            once, traces = traces, 0
    assert once > 0
    assert traces == 2  # `operator` reads the form of the result each time
