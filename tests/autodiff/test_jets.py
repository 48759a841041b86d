"""Second-order jets through one equation, against derivatives in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import _jaxpr
from funcdl.autodiff._jets import Jet, is_moving, propagate

X, SLOPE, BEND = 0.7, 1.5, -0.4
FUNCTIONS = {  # f, f', f''
    "sin": (jnp.sin, np.cos(X), -np.sin(X)),
    "exp": (jnp.exp, np.exp(X), np.exp(X)),
    "cube": (lambda x: x**3, 3 * X**2, 6 * X),
}


def derive(h, u, slopes, bends):
    """One direction, by nested derivatives."""
    first = lambda u: jax.jvp(h, (u,), (slopes,))[1]
    second = jax.jvp(first, (u,), (slopes,))[1]
    linear = jax.jvp(h, (u,), (bends,))[1]
    return first(u), [a + b for a, b in zip(second, linear)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_jet_follows_the_chain_rule(name):
    f, first, second = FUNCTIONS[name]
    jaxpr = jax.make_jaxpr(f)(X)
    rule = lambda equation, operands, plainly: (
        propagate(equation, operands, plainly, derive)
        if is_moving(operands)
        else plainly(*operands)
    )
    one = lambda x: jnp.asarray(x, jnp.float32)
    (jet,) = _jaxpr.interpret(jaxpr, [Jet(one(X), one(SLOPE), one(BEND))], rule)
    expected = f(X), first * SLOPE, second * SLOPE**2 + first * BEND
    np.testing.assert_allclose(jet, expected, rtol=1e-5)


def test_values_without_derivatives_do_not_move():
    assert not is_moving([1.0, jnp.ones(2)])
    assert is_moving([1.0, Jet(1.0, 1.0, 0.0)])
