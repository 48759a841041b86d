"""The check of second derivatives finds what breaks them, by name and line, and nothing else."""

import inspect

import jax
import jax.numpy as jnp
import pytest

import cases
from funcdl.autodiff import check_second_order


def norm(x):
    return jnp.linalg.norm(x)


def guard(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0).sum()


def power(x):
    return (jnp.abs(x) ** 1.5).sum()


def angle(x):
    return jnp.arccos(x).sum()


def singular(x):
    return (jnp.linalg.svd(x)[0][0] ** 3).sum()


def loop(x):
    def body(total, a):
        return total + jnp.sqrt(a * a), total

    return jax.lax.scan(body, 0.0, x, reverse=True)[0]


def spread(x):
    return jax.jit(jnp.std)(x["a"]) * x["n"]


BROKEN = {
    "norm at 0": (norm, jnp.zeros(2), "sqrt", ("[0]", "[1]")),
    "one guard": (guard, jnp.asarray([1.0, 0.0]), "sqrt", ("[1]",)),
    "power below 2 at 0": (power, jnp.asarray([2.0, 0.0]), "pow", ("[1]",)),
    "arccos of 1": (angle, jnp.asarray([0.5, 1.0]), "acos", ("[1]",)),
    "tie of singular values": (singular, jnp.eye(1) * jnp.eye(2), "svd", None),
    "inside a scan": (loop, jnp.asarray([1.0, 0.0, 3.0]), "sqrt", ("[1]",)),
    "inside a jit of a tree": (spread, {"a": jnp.ones(2), "n": 3}, "sqrt", ("a[0]", "a[1]")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_first_operation_without_a_second_derivative_is_named(name):
    f, x, operation, positions = BROKEN[name]
    report = check_second_order(f)(x)
    assert not report.finite
    lines, start = inspect.getsourcelines(f)
    word, place = report.operation.split(" at ")
    assert word == operation
    file, line = place.split(" (")[0].split(":")[:2]
    assert file == __file__
    assert start < int(line) < start + len(lines)
    assert positions is None or report.positions == positions
    assert report.operation in str(report)


def two_guards(x):
    root = jnp.sqrt(jnp.where(x > 0, x, 1))
    return (jnp.where(x > 0, root, 0.0) ** 3).sum()


def masked(x):
    scores = jnp.where(jnp.arange(len(x)) < 2, x, -jnp.inf)
    return (jax.nn.softmax(scores)[:2] ** 2).sum() + jnp.abs(x[0]) ** 3


SOUND = {
    "two guards": (two_guards, jnp.asarray([1.0, -1.0])),
    "masked scores": (masked, jnp.asarray([1.0, 2.0, 3.0])),
    "linear": (lambda x: x.sum(), jnp.ones(2)),
    "constant": (lambda x: jnp.ones(()), jnp.ones(2)),
    "rosenbrock": (cases.rosenbrock, cases.cast(cases.LOSSES["no data"].params, jnp.float32)),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_function_passes_in_single_precision(name):
    f, x = SOUND[name]
    report = check_second_order(f)(x)
    assert report.finite
    assert report.symmetric
    assert report.smooth, str(report)
    assert report.operation == ""
    assert report.positions == ()


KINKS = {
    "relu": (lambda x: (jax.nn.relu(x) ** 1).sum(), jnp.asarray([0.0, 1.0])),
    "max-pool": (lambda x: (x.reshape(2, 2).max(axis=1) ** 2).sum(), jnp.ones(4)),
}


@pytest.mark.parametrize("name", KINKS)
@pytest.mark.parametrize("wide", [False, True])
def test_at_kinks_and_ties_the_central_difference_disagrees(name, wide):
    f, x = KINKS[name]
    with jax.enable_x64(wide):
        report = check_second_order(f)(x.astype(float if wide else jnp.float32))
        beside = check_second_order(f)((x + 0.3 * (1 + jnp.arange(len(x)))).astype(float))
    assert report.finite
    assert not report.smooth
    assert beside.smooth


@pytest.mark.usefixtures("x64")
def test_a_wrong_rule_is_seen_as_asymmetry_and_as_difference():
    @jax.custom_jvp
    def square(x):
        return (x**2).sum()

    @square.defjvp
    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        return square(x), 2 * (x * jnp.roll(x, 1) * t).sum()  # no gradient of anything

    report = check_second_order(square)(jnp.asarray([1.0, 2.0, 4.0]))
    assert report.finite
    assert not report.symmetric
    assert report.smooth  # of its own gradient it is the derivative
    assert "BAD symmetric" in str(report)
