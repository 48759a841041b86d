"""The derivative of a function with a rule is that of the rule, in values and in sparsity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import autodiff, density

X = np.array([0.3, -1.2, 0.7])


def solved(a):
    """Solve t + exp(t) = a, which the body of an implicit function hides from its derivative."""
    step = lambda _, t: t - (t + jnp.exp(t) - a) / (1 + jnp.exp(t))
    return jax.lax.fori_loop(0, 40, step, jnp.zeros_like(a))


def bisected(p):
    """The quantile of a mixture of two logistic distributions, by bisection."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        is_low = mixture(middle) < p
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    return jax.lax.fori_loop(0, 60, halve, (jnp.full_like(p, -20.0), jnp.full_like(p, 20.0)))[0]


def mixture(x):
    return 0.3 * jax.nn.sigmoid(x + 2) + 0.7 * jax.nn.sigmoid(2 * x - 1)


def forward_only(f, slope):
    """A function whose body has no derivative and whose forward rule is the derivative of f."""
    call = jax.custom_jvp(lambda x: f(jax.lax.stop_gradient(x)))
    call.defjvp(lambda p, t: (call(*p), slope(*p) * t[0]))
    return call


def reverse_only(f, pull):
    call = jax.custom_vjp(lambda x: f(jax.lax.stop_gradient(x)))
    call.defvjp(lambda x: (call(x), x), lambda x, w: (pull(x, w),))
    return call


def iterated(w):
    """The identity, in a form that jax cannot transpose."""
    return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1]), (0, w))[1]


root = autodiff.implicit_root(solved, lambda t, a: t + jnp.exp(t) - a)
fixed_point = autodiff.implicit_fixed_point(solved, lambda t, a: t - 0.2 * (t + jnp.exp(t) - a))
quantile = autodiff.implicit_root(bisected, lambda x, p: mixture(x) - p)
mixed = lambda x: jnp.roll(x, 1) * jnp.exp(0.1 * x)
MAPS = {
    "implicit root": lambda x: x + root(x),
    "implicit fixed point": lambda x: x + fixed_point(x[::-1]) / 2,
    "quantile by bisection": lambda x: quantile(jax.nn.sigmoid(x)),
    "forward rule": lambda x: x + forward_only(jnp.exp, jnp.exp)(x),
    "forward rule inside a scan": lambda x: jax.lax.scan(
        lambda x, _: (x + forward_only(jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2)(x), None),
        x, None, length=2)[0],
    "forward rule of a row": lambda x: jax.vmap(
        forward_only(jnp.exp, jnp.exp))(x[:, None])[:, 0] + 0.1 * x.sum(),
    "reverse rule": lambda x: x + reverse_only(jnp.exp, lambda x, w: w * jnp.exp(x))(x),
    "reverse rule that mixes": lambda x: 2 * x + reverse_only(
        mixed, lambda x, w: jax.vjp(mixed, x)[1](w)[0])(x),
    "reverse rule with a loop": lambda x: x + reverse_only(
        jnp.exp, lambda x, w: iterated(w * jnp.exp(x)))(x),
    "straight through": lambda x: 3 * x + reverse_only(jnp.round, lambda _, w: w)(x),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_the_log_det_is_that_of_the_rule_in_both_modes(name, x64):
    f, x = MAPS[name], jnp.asarray(X)
    log_det = density.log_abs_det_jacobian(f)
    jacobian = jax.jacrev if name.startswith(("reverse", "straight")) else jax.jacfwd
    reference = lambda x: jnp.linalg.slogdet(jacobian(f)(x))[1]

    @jax.jit
    def found(x):
        forward = jax.jacfwd(log_det)(x) if name != "straight through" else jnp.zeros(3)
        return log_det(x), jax.grad(log_det)(x), forward, reference(x), jax.grad(reference)(x)

    value, gradient, forward, expected, slope = found(x)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(forward, slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MAPS)
def test_a_finite_inverse_is_one_and_none_is_proved(name, x64):
    f, x = MAPS[name], jnp.asarray(X)
    y = f(x)
    found = density.inverse(f)(y)
    if name != "straight through":  # it jumps, so that Newton steps may miss the root
        np.testing.assert_allclose(found, x, rtol=1e-7)
    assert np.isnan(found).all() or np.allclose(f(found), y)
    assert density.inspect(f, x).injective == "assumed"


@jax.custom_vjp
def sinh(x):
    return jnp.sinh(x)


sinh.defvjp(lambda x: (jnp.sinh(x), x), lambda x, w: (w * jnp.cosh(x),))
MIX = np.array([[1.0, 0.2, 0.1], [0.3, 1.0, 0.0], [0.1, 0.2, 1.0]])


def hidden_in_layers(f, x):
    return jax.lax.scan(lambda x, _: (f(MIX @ x) / 2, None), x, None, length=2)[0]


def hidden_in_a_shared_carry(f, x):
    step = lambda c, _: ((f(c[0]) + c[1].sum(), c[1] * f(c[0])), None)
    return jax.lax.scan(step, (x, x), None, length=2)[0][0]


def hidden_in_a_branch(f, x):
    return jax.lax.cond(x.sum() > 0, lambda x: 2 * x, f, x)


def hidden_in_a_loop_in_a_branch(f, x):
    inner = lambda x: jax.lax.scan(lambda x, _: (f(x), None), x, None, length=2)[0]
    return jax.lax.cond(x.sum() > 0, lambda x: 2 * x, inner, x)


@pytest.mark.parametrize(
    "hidden",
    [
        hidden_in_layers,
        hidden_in_a_shared_carry,
        hidden_in_a_branch,
        hidden_in_a_loop_in_a_branch,
    ],
)
def test_a_rule_for_reverse_mode_in_a_loop_or_branch_has_both_modes(hidden, x64):
    ours = density.log_abs_det_jacobian(lambda x: hidden(sinh, x))
    dense = lambda x: jnp.linalg.slogdet(jax.jacfwd(lambda x: hidden(jnp.sinh, x))(x))[1]
    value, slope = jax.jit(jax.value_and_grad(dense))(X)
    np.testing.assert_allclose(ours(X), value, rtol=1e-9)
    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(mode(ours))(X), slope, rtol=1e-8, atol=1e-12)
