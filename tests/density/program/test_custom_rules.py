"""A user's own inverse and log-determinant are used where they apply, and audited."""

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import density
from funcdl.density._program import custom_rules

X = jnp.array([0.3, -2.0, 1.0])


def squareplus(x):
    return (x + jnp.sqrt(x**2 + 4)) / 2


def marked(used):
    """A rule that notes its use."""

    def log_det(x):
        used.append("log_det")
        return jnp.log(0.5 + x / (2 * jnp.sqrt(x**2 + 4))).sum()

    def inverse(y):
        used.append("inverse")
        return y - 1 / y

    return density.rule(squareplus, log_det=log_det, inverse=inverse)


def test_a_rule_is_used_and_agrees_with_the_dense_jacobian():
    used = []
    ruled = marked(used)
    f = lambda x: jnp.cumsum(ruled(2 * x))
    expected = jnp.linalg.slogdet(jax.jacfwd(f)(X))[1]
    assert np.isclose(density.log_abs_det_jacobian(f)(X), expected, atol=1e-5)
    np.testing.assert_allclose(density.inverse(f)(f(X)), X, atol=1e-5)
    assert set(used) == {"log_det", "inverse"}


def test_under_vmap_the_function_is_read_as_if_it_had_no_rule():
    used = []
    found = density.log_abs_det_jacobian(jax.vmap(marked(used)))(X[:, None])
    expected = density.log_abs_det_jacobian(squareplus)(X)
    assert np.isclose(found, expected, atol=1e-5)
    assert not used


def test_an_eager_call_keeps_its_compilation():
    ruled = marked([])
    first, again = X + 1, X + 2
    ruled(first)
    names = []
    note = lambda event, *_, **__: names.append(event)
    jax.monitoring.register_event_duration_secs_listener(note)
    ruled(again)
    jax.monitoring.unregister_event_duration_listener(note)
    assert not any(name.endswith("backend_compile_duration") for name in names)


def test_check_finds_a_wrong_rule():
    wrong = density.rule(squareplus, log_det=lambda x: jnp.zeros(()))
    assert not density.check(wrong, X).log_det_agrees
    assert density.check(marked([]), X).log_det_agrees


def test_rules_are_forgotten_in_turn_and_registered_again(monkeypatch):
    monkeypatch.setattr(custom_rules, "_MOST", 3)

    def doubled(k):
        def f(x):
            return 2 * x

        return density.rule(f, log_det=lambda x: jnp.float32(k), inverse=lambda y: y / 2)

    functions = [doubled(k) for k in range(6)]
    for _ in range(2):
        found = [float(density.log_abs_det_jacobian(f)(X)) for f in functions]
        assert found == list(range(6))
    assert len(custom_rules._CALLS) == len(custom_rules._RULES) <= 3
