"""The sparse local Jacobian of every operation is the dense one: moves, contractions, axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.density._primitives.local_jacobian import Everything, take
from funcdl.density._primitives.log_magnitude import local
from funcdl.density._primitives.slope import linear
from funcdl.density._primitives.sparsity import reads
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._primitives.table import MOVES, record
from funcdl.density._program.program import Variable, program

A, B = cases.normal(0, 3, 4), cases.normal(1, 4, 2)
LOWER = np.tril(cases.normal(2, 3, 3)) + 3 * np.eye(3)
IMAGE, KERNEL = cases.normal(3, 1, 4, 5, 2), cases.normal(4, 3, 2, 2, 3)
# function of one float array, its point; the last equation is the operation in question
OPERATIONS = {
    "reshape": (lambda x: x.reshape(4, 3), A),
    "transpose": (lambda x: x.T, A),
    "squeeze": (lambda x: jnp.squeeze(x, 0), A[:1]),
    "expand_dims": (lambda x: jnp.expand_dims(x, 1), A),
    "broadcast": (lambda x: jnp.broadcast_to(x, (2, 3, 4)), A),
    "slice": (lambda x: x[1:, ::2], A),
    "rev": (lambda x: x[::-1], A),
    "concatenate": (lambda x: jnp.concatenate([x, 2 * A], 1), A),
    "pad": (lambda x: jnp.pad(x, ((1, 0), (0, 2))), A),
    "gather": (lambda x: x[:, jnp.array([2, 0, 2])], A),
    "dynamic_slice": (lambda x: jax.lax.dynamic_slice(x, (1, 0), (2, 3)), A),
    "dynamic_update_slice": (lambda x: jax.lax.dynamic_update_slice(x, A[:2, :2], (1, 1)), A),
    "scatter": (lambda x: x.at[jnp.array([0, 2])].set(1.0), A),
    "scatter-add": (lambda x: x.at[jnp.array([0, 2])].add(A[:2]), A),
    "select_n": (lambda x: jnp.where(np.eye(3, 4, dtype=bool), x, A), A),
    "matmul, left": (lambda x: x @ B, A),
    "matmul, right": (lambda x: A @ x, B),
    "matmul, sparse": (lambda x: LOWER @ x, cases.normal(5, 3)),
    "batched": (lambda x: jnp.einsum("bij,bjk->bik", x, cases.normal(6, 2, 3, 2)),
                cases.normal(7, 2, 4, 3)),
    "convolution": (lambda x: jax.lax.conv_general_dilated(
        x, KERNEL, (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), IMAGE),
    "kernel": (lambda k: jax.lax.conv_general_dilated(
        IMAGE, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")), KERNEL),
    "cumsum": (lambda x: jax.lax.cumsum(x, 1), A),
    "cumsum, reversed": (lambda x: jax.lax.cumsum(x, 0, reverse=True), A),
    "reduce_sum": (lambda x: x.sum(0), A),
    "triangular_solve": (lambda x: jax.lax.linalg.triangular_solve(
        LOWER, x, left_side=True, lower=True), cases.normal(8, 3, 2)),
    "cumprod": (lambda x: jax.lax.cumprod(x, 1), A),
    "cummax": (lambda x: jax.lax.cummax(x, 1), A),
    "sort": (lambda x: jax.lax.sort(x, dimension=1), A),
    "reduce_max": (lambda x: x.max(1), A),
    "while of one number each": (
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x) + x, x), A),
}  # fmt: skip
# the derivative by the data that this rule reads is not known number by number
PATTERN_ONLY = {"cumprod", "cummax", "sort", "reduce_max", "while of one number each"}


def edges_of(f, x):
    jaxpr = jax.make_jaxpr(f)(x)
    whole = program(jaxpr, [0], [0])
    static = StaticValues(whole)
    equation = [e for e in whole.equations if any(o in whole.dynamic for o in e.variables)][-1]
    values = {**static.values, whole.inputs[0]: jnp.asarray(x)}
    for e in whole.equations:
        operands = [values[o] if isinstance(o, Variable) else o for o in e.operands]
        values.update(zip(e.results, e.evaluate(*operands)))
    *_, found = reads(equation, static)
    return equation, found, values, whole


@pytest.mark.parametrize("name", OPERATIONS)
def test_edges_are_the_entries_of_the_dense_jacobian(name, x64):
    f, x = OPERATIONS[name]
    equation, found, values, _ = edges_of(f, x)
    ((at, edges),) = found.items()
    operand = values[equation.operands[at]]

    def alone(v):
        operands = [values[o] if isinstance(o, Variable) else o for o in equation.operands]
        operands[at] = v
        return equation.evaluate(*operands)[-1]

    size = (equation.results[-1].size, operand.size)
    dense = np.asarray(jax.jacfwd(alone)(operand)).reshape(size)
    pattern = np.zeros(size, bool)
    pattern[edges.rows, edges.cols] = True
    assert not (dense != 0)[~pattern].any()
    if name in PATTERN_ONLY:
        return
    assert pattern.sum() == len(edges.rows)
    exact = edges.slope.exact if hasattr(edges.slope, "exact") else np.ones(len(edges.rows), bool)
    which = np.flatnonzero(exact)
    value, log = linear(edges.slope(local(equation, values, {}), which))
    value = np.broadcast_to(value * (1 if log is None else jnp.exp(log)), which.shape)
    np.testing.assert_allclose(value, dense[edges.rows[which], edges.cols[which]], atol=1e-12)


def test_an_operation_that_nobody_knows_reads_everything():
    whole = program(jax.make_jaxpr(jax.lax.linalg.cholesky)(np.eye(3)), [0], [0])
    (equation,) = [e for e in whole.equations if e.name == "cholesky"]
    assert isinstance(reads(equation, StaticValues(whole))[0][0], Everything)


def test_moves_evaluate_as_jax_does(x64):
    for name in sorted(set(OPERATIONS) & set(MOVES)):
        f, x = OPERATIONS[name]
        equation, _, values, _ = edges_of(f, x)
        rule = record(equation.name).evaluate
        if rule is not None:
            operands = [
                np.asarray(values[o] if isinstance(o, Variable) else o) for o in equation.operands
            ]
            np.testing.assert_array_equal(
                rule(equation.eqn.params, *operands), values[equation.results[0]]
            )


@pytest.mark.parametrize("positions", [[0, 1, 2], [1, 2], [2, 0], [1, 1]])
def test_taking_positions_slices_where_it_can(positions):
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(take(x, np.array(positions)), x[np.array(positions)])
