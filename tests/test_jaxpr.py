"""The walk sees every operation, wherever it stands, on every supported jax."""

import jax
import jax.numpy as jnp
import pytest

from funcdl import _jaxpr


def loop(f):
    return lambda x: jax.lax.fori_loop(0, 3, lambda i, x: f(x), x)


def dynamic(f):
    return lambda x: jax.lax.while_loop(lambda x: x < 3, f, x)


@jax.custom_jvp
def custom(x):
    return jnp.sin(x)


custom.defjvp(lambda primals, tangents: (custom(*primals), tangents[0]))

NESTS = {
    "plain": jnp.sin,
    "jit": jax.jit(jnp.sin),
    "scan": loop(jnp.sin),
    "while": dynamic(jnp.sin),
    "cond": lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x),
    "switch": lambda x: jax.lax.switch(jnp.int32(x), [jnp.cos, jnp.sin, jnp.tan], x),
    "remat": jax.checkpoint(jnp.sin),
    "custom": custom,
    "solve": lambda x: jax.lax.custom_linear_solve(
        lambda y: y * 2, jnp.sin(x), lambda mv, b: b / 2, transpose_solve=lambda mv, b: b / 2
    ),
    "deep": jax.jit(loop(jax.checkpoint(dynamic(jax.jit(jnp.sin))))),
    "vmap": lambda x: jax.vmap(loop(jnp.sin))(jnp.stack([x, x])),
    "gradient": jax.grad(loop(jnp.cos)),
}


@pytest.mark.parametrize("name", NESTS)
def test_an_operation_is_found_wherever_it_stands(name):
    found = [
        e for e in _jaxpr.equations(jax.make_jaxpr(NESTS[name])(1.0)) if e.primitive.name == "sin"
    ]
    assert found


def test_what_is_not_there_is_not_found():
    names = [e.primitive.name for e in _jaxpr.equations(jax.make_jaxpr(NESTS["deep"])(1.0))]
    assert "tan" not in names
