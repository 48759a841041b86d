"""Arguments and functions that hold more than arrays: modules, tuples, NamedTuples, strings."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density

X = jnp.array([0.3, -1.2])


def normal(x):
    return -0.5 * (x**2).sum()


@jax.tree_util.register_pytree_node_class
class Module:
    """A module in the manner of Equinox: arrays and a function are its leaves."""

    def __init__(self, scale, activation):
        self.scale, self.activation = scale, activation

    def tree_flatten(self):
        return (self.scale, self.activation), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def __call__(self, x):
        return x + 0.5 * self.activation(self.scale * x)


class Affine(NamedTuple):
    scale: jax.Array
    shift: jax.Array

    def __call__(self, x):
        return self.scale * x + self.shift


@dataclasses.dataclass
class Unhashable:
    scale: float

    def __call__(self, x):
        return self.scale * x


ARGUMENTS = {
    "a module": (lambda x, m: m(x), Module(jnp.ones(2), jnp.tanh)),
    "a tuple": (lambda x, c: x * c[0] + c[1], (jnp.array([2.0, 3.0]), 1.0)),
    "a string": (lambda x, c: getattr(jnp, c["kind"])(x) * c["by"], {"kind": "sinh", "by": 2.0}),
    "a function": (lambda x, g: x + g(x), jnp.exp),
    "an object": (lambda x, c: x * c.scale, Unhashable.__new__(type("C", (), {"scale": X + 4}))),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_transform_takes_an_argument(name):
    f, arg = ARGUMENTS[name]
    closed = lambda x: f(x, arg)
    y, log_det = density.value_and_log_det(f)(X, arg)
    expected = density.value_and_log_det(closed)(X)
    np.testing.assert_allclose(jnp.append(y, log_det), jnp.append(*expected), rtol=1e-6)
    x, back = density.inverse_and_log_det(f)(y, arg)
    np.testing.assert_allclose(jnp.append(x, back), jnp.append(X, -log_det), rtol=1e-5)
    for transform in (density.pushforward, density.pullback):
        own, other = transform(normal, f)(y, arg), transform(normal, closed)(y)
        np.testing.assert_allclose(own, other, rtol=1e-5)
    assert density.inspect(f, X, arg).injective in ("proved", "assumed")


@pytest.mark.parametrize(
    "f", [Module(jnp.ones(2), jnp.tanh), Affine(X + 4, X), Unhashable(3.0)], ids=lambda f: type(f)
)
def test_a_function_is_any_callable(f):
    value = density.log_abs_det_jacobian(f)(X)
    np.testing.assert_allclose(
        value, jnp.linalg.slogdet(jax.jacfwd(lambda x: f(x))(X))[1], rtol=1e-5
    )
    np.testing.assert_allclose(density.inverse(f)(f(X)), X, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(density.inverse(f))(f(X)), X, rtol=1e-5)


def test_arrays_of_a_module_are_inputs_and_have_gradients():
    f = lambda x, m: m(x)
    loss = lambda scale: density.log_abs_det_jacobian(f)(X, Module(scale, jnp.tanh))
    by_hand = lambda s: jnp.log1p(0.5 * s * (1 - jnp.tanh(s * X) ** 2)).sum()
    scale = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(jax.grad(loss)(scale), jax.grad(by_hand)(scale), rtol=1e-5)


def test_another_array_in_a_module_does_not_compile_again():
    count = []

    def f(x, m):
        count.append(0)
        return m(x)

    transformed = density.log_abs_det_jacobian(f)
    for scale in (1.0, 2.0, 3.0):
        transformed(X, Module(jnp.full(2, scale), jnp.tanh))
    # one trace per call sees changed captures, and one more is that of the compilation
    assert len(count) == 4


def test_values_that_are_neither_arrays_nor_hashable_are_refused():
    with pytest.raises(TypeError, match=r"^args/0/a is of type set; expected an array or a hash"):
        density.inverse(lambda x, c: x)(X, {"a": {1}})
    with pytest.raises(TypeError, match=r"^x/0 is of type str; expected an array of floats"):
        density.value_and_log_det(lambda x: x)(("a",))
