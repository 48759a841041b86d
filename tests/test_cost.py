"""The body of a loop counts as often as it runs; XLA's own analysis counts it once."""

import jax
import jax.numpy as jnp
import pytest

from funcdl._cost import counted

N = 8
PRODUCT = 2 * N**3  # operations of one product of matrices


def flops(f):
    analyze = lambda lowered: {"flops": lowered.cost_analysis().get("flops", 0.0)}
    return counted(f, jnp.ones((N, N)), analyze=analyze)["flops"]


def repeated(times, body):
    return lambda x: jax.lax.scan(lambda x, _: (body(x), None), x, None, length=times)[0]


def square(x):
    return x @ x


LOOPS = {
    "none": (square, 1),
    "scan": (repeated(5, square), 5),
    "scan of none": (repeated(0, square), 0),
    "nested": (repeated(3, repeated(4, square)), 12),
    "inside jit": (jax.jit(repeated(6, jax.jit(square))), 6),
    "one after the other": (lambda x: repeated(2, square)(repeated(3, square)(x)), 5),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_count_as_often_as_they_run(name):
    f, times = LOOPS[name]
    assert abs(flops(f) - times * PRODUCT) < 0.1 * PRODUCT


def test_a_loop_of_unknown_length_is_nan():
    f = lambda x: jax.lax.while_loop(lambda x: x.sum() < 1e6, square, x)
    assert jnp.isnan(flops(f))
