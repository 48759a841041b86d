"""Operators against their matrices; ``test_every_operator_*`` runs over ``cases.OPERATORS``."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import cases
from funcdl import _tree, operators

TOL = dict(rtol=2e-5, atol=2e-5)
each_operator = pytest.mark.parametrize("name", cases.OPERATORS)


def draw(space, seed):
    leaves = [
        jnp.asarray(cases.normal(seed + i, *x.shape), x.dtype) for i, x in enumerate(space.leaves)
    ]
    return jax.tree.unflatten(space.treedef, leaves)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], np.float64)


@jax.jit
def everything(A, v, w):
    return A @ v, A.T @ w, A.dense()


@each_operator
def test_every_operator_is_its_matrix(name):
    A, matrix = cases.OPERATORS[name](0)
    v, w = draw(A.space_in, 1), draw(A.space_out, 2)
    forward, backward, dense = everything(A, v, w)
    scale = max(1, np.abs(matrix).max())

    def close(a, b):
        return np.testing.assert_allclose(a / scale, b / scale, **TOL)

    close(dense, matrix)
    close(flat(forward), matrix @ flat(v))
    close(flat(backward), matrix.T @ flat(w))
    assert jax.tree.structure(forward) == jax.tree.structure(A.shape_out)
    assert [x.dtype for x in jax.tree.leaves(forward)] == [x.dtype for x in A.space_out.leaves]
    assert [x.dtype for x in jax.tree.leaves(backward)] == [x.dtype for x in A.space_in.leaves]


SOLVABLE = [n for n, make in cases.OPERATORS.items() if make(0).operator.action.solve is not None]
each_solvable = pytest.mark.parametrize("name", SOLVABLE)


@jax.jit
def solutions(A, b, c):
    return A.solve(b), A.T.solve(c), A.logdet(), A.T.logdet()


@each_solvable
def test_every_solve_and_logdet_is_that_of_the_matrix(name):
    A, matrix = cases.OPERATORS[name](0)
    b, c = draw(A.space_out, 1), draw(A.space_in, 2)
    x, y, *logdets = solutions(A, b, c)
    tol = dict(rtol=1e-4, atol=1e-5 * np.linalg.cond(matrix))
    np.testing.assert_allclose(flat(x), np.linalg.solve(matrix, flat(b)), **tol)
    np.testing.assert_allclose(flat(y), np.linalg.solve(matrix.T, flat(c)), **tol)
    np.testing.assert_allclose(logdets, [np.linalg.slogdet(matrix)[1]] * 2, **tol)


def test_what_is_meant_to_be_solvable_is():
    without = {*cases.OPERATORS} - {*SOLVABLE}
    assert without == {
        *("matrix", "function", "symmetric function", "sum", "difference", "multiple"),
        *("transpose", "product", "gram", "shift", "ridge", "hessian", "hessian over batches"),
        *("toeplitz", "toeplitz by Fourier", "kronecker", "written out"),
    }


@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
def test_many_products_at_once_are_the_products(chunk):
    A, matrix = cases.function(0)
    vectors = jax.vmap(_tree.ravel(A.shape_in)[1])(jnp.asarray(cases.normal(1, 3, 6), jnp.float32))
    many = A.mm(vectors, chunk=chunk)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], (vectors, many))
        np.testing.assert_allclose(flat(one[1]), matrix @ flat(one[0]), **TOL)


def test_the_transpose_of_a_transpose_is_the_operator():
    A, matrix = cases.function(0)
    np.testing.assert_allclose(A.T.T.dense(), matrix, **TOL)


@each_operator
def test_every_operator_is_as_symmetric_and_psd_as_it_says(name):
    A, matrix = cases.OPERATORS[name](0)
    if A.symmetric:
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
        assert A.T is A
    if A.psd:
        assert A.symmetric
        assert np.linalg.eigvalsh(matrix).min() >= -1e-12


@each_operator
def test_every_operator_crosses_jit_and_other_parameters_do_not_retrace(name):
    traces = 0

    @jax.jit
    def product(A, v):
        nonlocal traces
        traces += 1
        return A @ v

    for seed in (0, 1):
        A, matrix = cases.OPERATORS[name](seed)
        v = draw(A.space_in, 3)
        scale = max(1, np.abs(matrix).max())
        np.testing.assert_allclose(flat(product(A, v)) / scale, matrix @ flat(v) / scale, **TOL)
    assert traces == 1
    restored = jax.tree.unflatten(jax.tree.structure(A), jax.tree.leaves(A))
    product(restored, v)
    assert traces == 1


VALUES = st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6)


@settings(max_examples=50, deadline=None)
@given(VALUES, VALUES)
def test_the_transpose_is_the_adjoint_for_any_vectors(x, y):
    for A in ADJOINTS:
        v, w = (
            _tree.ravel(form)[1](jnp.asarray(z[: _tree.size(form)], jnp.float32))
            for form, z in ((A.shape_in, x), (A.shape_out, y))
        )
        left, right, scale = _adjoint(A, v, w)
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5 * (scale + 1e-6))


@jax.jit
def _adjoint(A, v, w):
    image = A @ v
    return _tree.dot(w, image), _tree.dot(A.T @ w, v), _tree.norm(w) * _tree.norm(image)


ADJOINTS = [cases.OPERATORS[name](0).operator for name in ("function", "product")]


@pytest.mark.parametrize(
    ("rows", "columns"), [("x/0", "x/1"), ("x/1", None), (("x/0", "x/*"), "x/0")]
)
def test_a_block_of_any_operator_is_the_submatrix(rows, columns):
    at = {"x/0": [0, 1], "x/1": [2, 3, 4, 5], "x/*": list(range(6))}

    def pick(where):
        return sorted({i for w in ([where] if isinstance(where, str) else where) for i in at[w]})

    A, matrix = cases.symmetric_function(0)
    i, j = pick(rows), pick(rows if columns is None else columns)
    for B, reference in ((A, matrix), (3 * A - A.shift(1.0), 2 * matrix - np.eye(6))):
        block = B.block(rows, columns)
        expected = reference[np.ix_(i, j)]
        np.testing.assert_allclose(block.dense(), expected, **TOL)
        np.testing.assert_allclose(block.T.dense(), expected.T, **TOL)
        assert block.symmetric == (i == j)


def test_equal_blocks_do_not_retrace():
    traces = 0

    @jax.jit
    def product(A, v):
        nonlocal traces
        traces += 1
        return A @ v

    for seed in (0, 1):
        for make in (cases.symmetric_function, cases.hessian):
            A = make(seed).operator
            block = A.block(_tree.paths(A.shape_in)[0])
            product(block, draw(block.space_in, 0))
    assert traces == 2


def test_a_scalar_is_an_operand_that_can_be_traced_and_differentiated():
    A, matrix = cases.marked(0)
    v = draw(A.space_in, 1)

    def f(c):
        return _tree.dot(v, (c * A).shift(c**2) @ v)

    slope = jax.jit(jax.grad(f))(0.5)
    np.testing.assert_allclose(slope, flat(v) @ matrix @ flat(v) + flat(v) @ flat(v), rtol=1e-5)


def test_operators_can_be_mapped_over():
    stack = jnp.asarray(cases.normal(0, 3, 4, 6), jnp.float32)
    v = jnp.asarray(cases.normal(1, 6), jnp.float32)
    products = jax.vmap(lambda a: operators.from_dense(a).T.T @ v)(stack)
    np.testing.assert_allclose(products, stack @ v, **TOL)
    stacked = jax.vmap(operators.from_dense)(stack)  # an operator is an output too
    np.testing.assert_allclose(jax.vmap(lambda A: A @ v)(stacked), stack @ v, **TOL)


def test_flags_follow_the_algebra():
    A = operators.from_dense(jnp.eye(3), psd=True)
    B = operators.from_dense(jnp.ones((2, 3)))
    assert (A + A).psd
    assert (2.0 * A).psd
    assert A.shift(1.0).psd
    assert not (-A).psd
    assert (-A).symmetric
    assert not A.shift(-1.0).psd
    assert not (A - A).psd
    assert not (A @ A.shift(1.0)).symmetric
    assert (B.T @ B).psd
    assert (B @ B.T).psd
    assert not (B.T @ operators.from_dense(jnp.ones((2, 3)))).symmetric


def test_vectors_of_low_precision_matrices_are_float32():
    matrix = jnp.asarray(cases.normal(0, 3, 3), jnp.bfloat16)
    A = operators.from_dense(matrix)
    v = jnp.asarray([1 / 3, 1 / 7, 1 / 11])
    assert A.shape_in.dtype == A.shape_out.dtype == (A @ v).dtype == jnp.float32
    exact = np.asarray(matrix, np.float64) @ np.asarray(v, np.float64)
    np.testing.assert_allclose(A @ v, exact, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_a_float64_operator_keeps_float64():
    a = cases.normal(0, 4, 6)
    A = operators.from_dense(jnp.asarray(a))
    assert A.dense().dtype == jnp.float64
    np.testing.assert_allclose(A.dense(), a, rtol=1e-15)


def test_a_function_that_captured_a_tracer_is_differentiable_in_it():
    v = jnp.arange(1.0, 4.0)

    def f(c):
        return _tree.dot(v, operators.from_function(lambda x: c * x, v, symmetric=True) @ v)

    assert jax.jit(jax.grad(f))(2.0) == 14.0


def test_scipy_and_the_operator_agree():
    for name in ("function", "hessian"):
        A, matrix = cases.OPERATORS[name](0)
        S = A.as_scipy()
        v, w = cases.normal(1, matrix.shape[1]), cases.normal(2, matrix.shape[0])
        np.testing.assert_allclose(S @ v, matrix @ v, **TOL)
        np.testing.assert_allclose(S.rmatvec(w), matrix.T @ w, **TOL)
        assert S.shape == matrix.shape


@pytest.mark.oracle
def test_lineax_and_the_operator_agree():
    import lineax as lx

    A, matrix = cases.symmetric_function(0)
    L = A.as_lineax()
    v = draw(A.space_in, 1)
    np.testing.assert_allclose(flat(L.mv(v)), matrix @ flat(v), **TOL)
    assert lx.is_symmetric(L)
    assert lx.is_positive_semidefinite(L)
    solution = lx.linear_solve(A.shift(1.0).as_lineax(), v, lx.CG(1e-6, 1e-6)).value
    np.testing.assert_allclose(
        flat(solution), np.linalg.solve(matrix + np.eye(6), flat(v)), rtol=1e-3
    )


def test_the_cost_of_a_matrix_product_is_counted():
    cost = operators.from_dense(jnp.ones((20, 30))).cost()
    assert 2 * 20 * 30 * 0.9 <= cost.flops <= 2 * 20 * 30 * 1.5
    assert cost.bytes >= 0


def test_printing_an_operator_says_its_form_not_its_numbers():
    A = operators.from_dense(jnp.ones((2, 2)), symmetric=True)
    assert repr(A) == "LinearOperator(2 -> 2, symmetric)"
    assert operators.from_dense(jnp.ones((2, 2)), symmetric=True) != A
    assert hash(A)


class TestErrors:
    """Each names the argument, what was expected and what came."""

    A = operators.from_function(Partial(_tree.scale, 2.0), cases.LIKE, symmetric=True)
    square = operators.from_dense(jnp.eye(3))

    def test_a_wrong_vector_names_the_path_and_both_shapes(self):
        with pytest.raises(ValueError, match=r"v in A @ v.*'x/1'.*\(2, 2\).*\(3,\)"):
            self.A @ {"x": [jnp.zeros(2), jnp.zeros(3)]}
        with pytest.raises(ValueError, match=r"'x/1'.*expected shape \(2, 2\), got nothing"):
            self.A @ {"x": [jnp.zeros(2)]}
        with pytest.raises(ValueError, match=r"'y'.*expected nothing, got shape \(1,\)"):
            self.A @ {**cases.LIKE, "y": jnp.zeros(1)}
        with pytest.raises(ValueError, match="structure"):
            self.A @ {"x": tuple(cases.LIKE["x"])}

    def test_operators_of_different_forms_do_not_combine(self):
        B = operators.from_dense(jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"A \+ B.*\(3,\).*\(2,\)"):
            self.square + operators.from_dense(jnp.ones((3, 2)))
        with pytest.raises(ValueError, match=r"A @ B.*\(3,\).*\(2,\)"):
            B @ B
        with pytest.raises(ValueError, match=r"not square.*\(3,\).*\(2,\)"):
            B.shift(1.0)

    def test_what_is_no_scalar_does_not_multiply(self):
        with pytest.raises(ValueError, match=r"c in c \* A has shape \(3,\); expected a scalar"):
            jnp.ones(3) * self.square
        with pytest.raises(ValueError, match=r"damping has shape \(3,\); expected a scalar"):
            self.square.shift(jnp.ones(3))
        for wrong in (lambda: self.square * self.square, lambda: self.square + 3):
            with pytest.raises(TypeError, match="unsupported operand"):
                wrong()

    def test_a_matrix_must_be_two_dimensional_and_symmetric_ones_square(self):
        bare = inspect.unwrap(operators.from_dense)  # without the type checks of the test suite
        with pytest.raises(ValueError, match=r"matrix has shape \(3,\); expected a 2-D array"):
            bare(jnp.ones(3))
        with pytest.raises(ValueError, match=r"\(2, 3\); expected a square 2-D array"):
            operators.from_dense(jnp.ones((2, 3)), symmetric=True)
        with pytest.raises(TypeError, match="dtype int32; expected a float"):
            bare(jnp.ones((2, 2), int))

    def test_a_symmetric_function_returns_what_it_takes(self):
        told = "returns vectors of the same structure as its argument"
        with pytest.raises(ValueError, match=told):
            operators.from_function(lambda v: v[:2], jnp.zeros(3), symmetric=True)
        with pytest.raises(TypeError, match="int32"):
            operators.from_function(lambda v: v, jnp.zeros(3, int))
        with pytest.raises(ValueError, match="no leaves"):
            operators.from_function(lambda v: v, {})

    def test_a_dense_matrix_over_the_limit_is_refused_with_both_numbers(self):
        with pytest.raises(ValueError, match=r"3 x 3.*36 bytes.*max_bytes is 35"):
            self.square.dense(max_bytes=35)
        assert self.square.dense(max_bytes=36).shape == (3, 3)
        million = jax.ShapeDtypeStruct((10**6,), jnp.float32)
        huge = operators.from_function(lambda v: v, million, symmetric=True)
        with pytest.raises(ValueError, match="4,000,000,000,000 bytes"):
            huge.dense()

    def test_a_glob_that_matches_nothing_names_the_nearest_path(self):
        with pytest.raises(ValueError, match="'x/2' matches nothing; the nearest path is 'x/"):
            self.A.block("x/2")
