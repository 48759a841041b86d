"""A function as a flat list of equations, cut wherever n live numbers determine the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import program


def flat(f, *args, main_in=(0,), known=None):
    return program(jax.make_jaxpr(f)(*args), main_in, [0], known)


def names(equations):
    return [equation.name for equation in equations]


@pytest.mark.parametrize("wrap", [jax.jit, jax.remat, lambda f: jax.jit(jax.jit(f))])
def test_calls_are_entered(wrap):
    whole = flat(lambda x: jnp.exp(wrap(jnp.tanh)(x)), jnp.ones(3))
    assert names(whole.equations) == ["tanh", "exp"]


def test_functions_of_jax_with_a_rule_keep_their_name_and_others_are_calls():
    @jax.custom_jvp
    def own(x):
        return jnp.exp(x)

    own.defjvp(lambda primals, tangents: (own(*primals), tangents[0]))
    assert "relu" in names(flat(jax.nn.relu, jnp.ones(3)).equations)
    assert "custom_jvp_call" in names(flat(own, jnp.ones(3)).equations)


def test_one_jitted_function_called_twice_has_variables_of_its_own_each_time():
    inner = jax.jit(jnp.tanh)
    whole = flat(lambda x: inner(inner(x)), jnp.ones(3))
    first, second = whole.equations
    assert second.operands == first.results
    assert first.results != second.results


def test_it_is_cut_where_as_many_numbers_are_alive_as_went_in():
    def f(x):
        a, b = x[:2], x[2:]
        return jnp.exp(jnp.concatenate([a, b * a.sum()]))

    whole = flat(f, jnp.ones(4))
    segments = whole.segments()
    assert [names(s.equations) for s in segments] == [
        ["slice", "slice"],
        ["reduce_sum", "mul"],
        ["concatenate"],
        ["exp"],
    ]
    for segment in segments:
        assert sum(v.size for v in segment.inputs) == sum(v.size for v in segment.outputs) == 4


def test_numbers_that_nobody_reads_again_die():
    whole = flat(lambda x: x[:2] * 2.0, jnp.ones(4))
    assert [sum(v.size for v in alive) for alive in whole.living] == [4, 2, 2]


def test_what_x_does_not_reach_is_static():
    whole = flat(lambda x, w: x * (w**2 + 1), jnp.ones(3), jnp.ones(3))
    assert [whole.equations[-1].results[0] in whole.dynamic, len(whole.dynamic)] == [True, 2]


def test_constants_are_computed_while_tracing_and_random_numbers_are_not():
    def f(x):
        mask = jnp.arange(4) < 2
        return x * mask + jax.random.uniform(jax.random.key(0), (4,))

    whole = flat(f, jnp.ones(4))
    static = StaticValues(whole)
    values = [static.value(e.results[0]) for e in whole.equations if e.name == "lt"]
    np.testing.assert_array_equal(values[0], [True, True, False, False])
    random = [e for e in whole.equations if e.name.startswith("random")]
    assert random
    assert all(static.value(v) is None for e in random for v in e.results)


def test_zeros_of_a_masked_matrix_are_known_though_its_numbers_are_not():
    whole = flat(lambda x, w: jnp.tril(w, -1) @ x, jnp.ones(3), jnp.ones((3, 3)))
    static = StaticValues(whole)
    (product,) = [e for e in whole.equations if e.name == "dot_general"]
    np.testing.assert_array_equal(static.support(product.operands[0]), np.tri(3, k=-1, dtype=bool))


def test_a_known_input_is_a_constant():
    whole = flat(lambda x, n: x * n, jnp.ones(3), jnp.ones(3), known={1: np.arange(3.0)})
    np.testing.assert_array_equal(StaticValues(whole).value(whole.inputs[1]), np.arange(3.0))
