"""Laws of what knows an operator by its products: jit is eager, vmap the loop, nothing retraces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import cases
from funcdl import operators

KEY = jax.random.key(1)


def product(a, v):
    return a @ (a.T @ v) + v


CALLS = {
    "trace": lambda A: operators.trace(A, key=KEY, probes=2),
    "hutch_pp": lambda A: operators.hutch_pp(A, key=KEY, probes=2),
    "xtrace": lambda A: operators.xtrace(A, key=KEY, probes=2),
    "diagonal": lambda A: operators.diagonal(A, key=KEY, probes=2),
    "frobenius": lambda A: operators.frobenius(A, key=KEY, probes=2),
    "logdet": lambda A: operators.logdet(A, key=KEY, probes=2),
    "cond": lambda A: operators.cond(A, key=KEY),
}


@pytest.mark.parametrize("name", CALLS)
def test_mapped_over_parameters_it_is_the_loop_and_jit_is_eager(name):
    stack = jnp.asarray(cases.normal(0, 3, 5, 5), jnp.float32)

    def call(a):
        return CALLS[name](operators.from_function(Partial(product, a), jnp.zeros(5), psd=True))

    mapped = jax.jit(jax.vmap(call))(stack)
    for i, a in enumerate(stack):
        alone = call(a)
        np.testing.assert_allclose(mapped.value[i], alone.value, rtol=1e-4, atol=1e-5)
        evidence = "converged" if name == "cond" else "stderr"
        got, expected = (getattr(x, evidence) for x in (mapped, alone))
        np.testing.assert_allclose(got[i], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CALLS)
def test_new_parameters_of_the_same_shapes_do_not_retrace(name):
    traces = 0

    def counted(a, v):
        nonlocal traces
        traces += 1
        return product(a, v)

    found = []
    for a in jnp.asarray(cases.normal(0, 2, 5, 5), jnp.float32):
        A = operators.from_function(Partial(counted, a), jnp.zeros(5), psd=True)
        before = traces
        CALLS[name](A)
        found.append(traces - before)
    assert found[0] > 0
    assert found[1] == 0
