"""An equation is named by the line and the function that it comes from."""

import jax
import jax.numpy as jnp

from funcdl import _jaxpr, _source


def test_the_line_of_the_user_is_named():
    def users(x):
        return jnp.sin(x)

    line = users.__code__.co_firstlineno + 1
    (equation,) = _jaxpr.equations(jax.make_jaxpr(users)(1.0))
    assert f"test_source.py:{line}" in _source.where(equation)


def test_functions_of_jax_with_a_derivative_of_their_own_have_their_names():
    names = {
        _source.title(e)
        for e in _jaxpr.equations(jax.make_jaxpr(lambda x: jax.nn.relu(jax.nn.softplus(x)))(1.0))
    }
    assert {"relu", "logaddexp"} <= names

    @jax.custom_jvp
    def relu(x):
        return 2 * x

    relu.defjvp(lambda x, t: (2 * x[0], 2 * t[0]))
    (equation,) = jax.make_jaxpr(relu)(1.0).eqns
    assert _source.title(equation) == "custom_jvp_call"
