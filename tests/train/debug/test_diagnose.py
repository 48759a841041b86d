"""A planted NaN is found: its operation, its line, its layer, and the iteration of its loop."""

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from funcdl import losses, nn, train

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
BATCH = X, np.arange(8, dtype=np.int32) % 3


@jax.jit
def users_jit(x):
    return jnp.log(x - 100)


@jax.custom_jvp
def users_rule(x):
    return jnp.log(-jnp.abs(x) - 1)


users_rule.defjvp(lambda x, t: (users_rule(*x), t[0]))


@jax.custom_vjp
def users_pullback(x):
    return jnp.log(-jnp.abs(x) - 1)


users_pullback.defvjp(lambda x: (users_pullback(x), None), lambda _, g: (g,))


def growing(x):
    return jax.lax.scan(lambda c, i: (c * 1e10, c.sum()), x, jnp.arange(9))[0]


def last_of_sequence(x):
    steps = jnp.asarray([1.0, 2.0, -1.0, 3.0])
    return x + jax.lax.scan(lambda c, s: (c, jnp.log(s)), x, steps)[1].sum()


def backwards(x):
    steps = jnp.asarray([-1.0, 2.0, -1.0, 3.0])
    return x + jax.lax.scan(lambda c, s: (c, jnp.log(s)), x, steps, reverse=True)[1].sum()


def twice(x):
    def inner(c, i):
        return jnp.where(i == 1, jnp.log(-jnp.abs(c)), c), None

    def outer(c, j):
        fine = lambda c: c
        hurt = lambda c: jax.lax.scan(inner, c, jnp.arange(3))[0]
        return jax.lax.cond(j == 2, hurt, fine, c), None

    return jax.lax.scan(outer, x, jnp.arange(4))[0]


def counting(x):
    body = lambda s: (s[0] + 1, jax.lax.stop_gradient(s[1]) * 1e10)
    return x + jax.lax.while_loop(lambda s: s[0] < 9, body, (0, jax.lax.stop_gradient(x)))[1]


def of_jax(x):
    return x + jnp.linalg.norm(x * 0)


def masked(x):
    """All of this is infinite somewhere, and harmless."""
    inside = jnp.arange(4) < 2
    weights = jax.nn.softmax(jnp.where(inside, x, -jnp.inf))
    logs = jnp.where(x == x, 0, jax.lax.stop_gradient(jnp.log(0 * x)))
    return weights + logs


# name: (f of the middle layer, operation, value, iterations, only in a derivative)
PLANTED = {
    "log of negative": (lambda x: jnp.log(-jnp.abs(x) - 1), "log", "nan", (), False),
    "0 / 0": (lambda x: (x * 0) / (x * 0), "div", "nan", (), False),
    "overflow": (lambda x: jnp.exp(1000 * (x**2 + 1)), "exp", "inf", (), False),
    "root at 0": (lambda x: jnp.sqrt(x * 0), "div", "inf", (), True),
    "in a jit": (users_jit, "log", "nan", (), False),
    "in a rule": (users_rule, "log", "nan", (), False),
    "in a pullback": (users_pullback, "log", "nan", (), False),
    "softmax of nothing": (
        lambda x: jax.nn.softmax(jnp.where(x == x, -jnp.inf, x)),
        "sub",
        "nan",
        (),
        False,
    ),
    "in a function of jax": (of_jax, "div in norm", "inf", (), True),
    "in a scan": (growing, "mul", "inf", (3,), False),
    "in a sequence": (last_of_sequence, "log", "nan", (2,), False),
    "in reverse": (backwards, "log", "nan", (2,), False),
    "deep": (twice, "log", "nan", (2, 1), False),
    "in a while": (counting, "mul", "inf", (3,), False),
    "beside what is masked": (lambda x: masked(x) + jnp.log(-jnp.exp(x)), "log", "nan", (), False),
}


class Middle(linen.Module):
    f: callable

    @linen.compact
    def __call__(self, x):
        return self.f(linen.Dense(4)(x))


class Net(linen.Module):
    f: callable

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Dense(5)(x))
        return linen.Dense(3)(Middle(self.f, name="middle")(x))


def planted(f, optimizer=None):
    objective = train.supervised(nn.from_linen(Net(f)), losses.softmax_cross_entropy)
    program = train.program(objective, optimizer or optax.sgd(1e-3))
    return program, program.init(jax.random.key(0), BATCH)


@pytest.mark.parametrize("name", PLANTED)
def test_the_operation_its_layer_and_its_line_are_named(name):
    f, operation, value, iterations, derivative = PLANTED[name]
    origin = train.diagnose(*planted(f), BATCH)
    assert origin is not None
    assert (origin.operation, origin.value) == (operation, value)
    assert origin.layer == "Net/middle"
    assert origin.iterations == iterations
    assert origin.derivative is derivative
    file, line = origin.place.split(":")[:2]
    assert file == __file__
    source, first = inspect.getsourcelines(getattr(f, "__wrapped__", f))
    assert first <= int(line) < first + len(source) or name.startswith("in a")
    text = str(origin)
    assert f"{value} from {operation} in layer Net/middle" in text
    assert text.count("iteration") == len(iterations)
    assert ("the derivative of" in text) is derivative


def test_the_very_line_is_named():
    f, *_ = PLANTED["log of negative"]
    origin = train.diagnose(*planted(f), BATCH)
    lines = Path(__file__).read_text().splitlines()
    assert '"log of negative"' in lines[int(origin.place.split(":")[1]) - 1]


def lengths(x):
    return x + jnp.linalg.norm(x * 0, axis=1, keepdims=True)


def test_a_function_of_jax_is_named_by_its_caller_although_another_traced_it_first():
    jax.jit(lambda x: jnp.linalg.norm(x, axis=1, keepdims=True))(X)
    origin = train.diagnose(*planted(lengths), BATCH)
    assert origin.operation == "div in norm"
    assert origin.place.split(":")[1] == str(lengths.__code__.co_firstlineno + 1)


def test_a_step_that_is_finite_has_no_origin():
    assert train.diagnose(*planted(masked), BATCH) is None


def test_what_comes_in_broken_is_named_by_its_path():
    program, run = planted(jnp.tanh)
    hurt = np.where(np.arange(8)[:, None] == 3, np.nan, X)
    origin = train.diagnose(program, run, (hurt, BATCH[1]))
    assert (origin.operation, origin.place, origin.value) == ("input", "batch/0", "nan")
    params = run.params | {"Dense_0": jax.tree.map(lambda x: x / 0, run.params["Dense_0"])}
    origin = train.diagnose(program, run._replace(params=params), BATCH)
    assert origin.operation == "input"
    assert origin.place.startswith("run/params/Dense_0")


def test_an_optimizer_is_named_by_its_file():
    def root(updates, state, params=None):
        return jax.tree.map(lambda g: jnp.sqrt(-jnp.abs(g) - 1), updates), state

    bad = optax.GradientTransformation(lambda params: (), root)
    origin = train.diagnose(*planted(jnp.tanh, bad), BATCH)
    assert origin.operation == "sqrt"
    assert origin.layer == ""
    assert not origin.derivative
    assert origin.place.startswith(__file__)
