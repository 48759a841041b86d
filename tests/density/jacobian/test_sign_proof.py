"""Bounds of derivatives prove the sign of a diagonal, and never one that it has not."""

import jax
import jax.numpy as jnp
import pytest

from funcdl.density._analysis import analyze
from funcdl.density._jacobian.sign_proof import keeps_sign

PROVED = {
    "x + tanh x / 2": lambda x: x + 0.5 * jnp.tanh(x),
    "2 x + sin x": lambda x: 2 * x + jnp.sin(x),
    "sinh of exp": lambda x: jnp.sinh(x) * 3 + jnp.exp(x),
    "leaky": lambda x: jnp.where(x > 0, x, 0.3 * x) + x,
    "cube": lambda x: x**3 + x,
    "falling": lambda x: -x - jnp.arctan(x),
    "erfc": lambda x: jax.scipy.special.erfc(x) - x,
    "log of exp": lambda x: jnp.log1p(jnp.exp(x)) + x,
    "cosh of a positive number": lambda x: jnp.cosh(jnp.exp(x)) + jnp.exp(x),
}
NOT_PROVED = {
    "x + 2 sin x": lambda x: x + 2 * jnp.sin(x),
    "x - tanh 2x": lambda x: x - jnp.tanh(2 * x),
    "square": lambda x: x**2 + 0 * x,
    "x + cosh x": lambda x: x + jnp.cosh(x),
    "relu": lambda x: jax.nn.relu(x) + 0 * x,
    "tan over its poles": lambda x: jnp.tan(x) + x,
}


def proof(f):
    analysis = analyze(jax.make_jaxpr(f)(jnp.ones(2)), [0], [0])
    parts = [part for plan in analysis.plans for part in plan.parts]
    return all(keeps_sign(part.paths, analysis.bounds) for part in parts)


@pytest.mark.parametrize("name", PROVED)
def test_a_monotone_function_is_proved(name):
    assert proof(PROVED[name])


@pytest.mark.parametrize("name", NOT_PROVED)
def test_a_function_that_turns_or_rests_is_not(name):
    assert not proof(NOT_PROVED[name])
