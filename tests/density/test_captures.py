"""Eager calls see what Python sees: a capture that is changed in place changes the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density

X = jnp.array([0.3, -1.2])


def normal(x):
    return -0.5 * (x**2).sum()


class Net:
    def __init__(self):
        self.scale = jnp.float32(2.0)

    def __call__(self, x):
        return self.scale * x

    def forward(self, x):
        return self.scale * x


def array():
    scale = np.full(2, 2.0, "float32")
    return lambda x: scale * x, lambda: scale.__imul__(2)


def dictionary():
    params = {"scale": 2.0}
    return lambda x: params["scale"] * x, lambda: params.update(scale=4.0)


def callable_object():
    net = Net()
    return net, lambda: setattr(net, "scale", jnp.float32(4.0))


def method():
    net = Net()
    return net.forward, lambda: setattr(net, "scale", jnp.float32(4.0))


def choice():
    names = ["double"]
    f = lambda x: 2 * x if names[-1] == "double" else 4 * x
    return f, lambda: names.append("other")


CAPTURES = [array, dictionary, callable_object, method, choice]
CALLS = {
    "value": lambda f: density.value_and_log_det(f)(X)[0],
    "log_det": lambda f: density.log_abs_det_jacobian(f)(X),
    "inverse": lambda f: density.inverse(f)(X),
    "inverse_and_log_det": lambda f: density.inverse_and_log_det(f)(X)[1],
    "pushforward": lambda f: density.pushforward(normal, f)(X),
    "pullback": lambda f: density.pullback(normal, f)(X),
    "lanes": lambda f: jax.vmap(density.log_abs_det_jacobian(f))(jnp.stack([X, 2 * X])),
    "gradient": lambda f: jax.grad(density.pushforward(normal, f))(X),
    "rule": lambda f: density.rule(f, log_det=lambda x: x[0])(X),
    "rule inside": lambda f: density.value_and_log_det(
        lambda x: density.rule(f, log_det=lambda x: x[0])(x))(X)[0],
}  # fmt: skip


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("name", CALLS)
def test_a_change_in_place_is_seen(name, capture):
    call = CALLS[name]
    f, change = capture()
    call(f)
    change()
    np.testing.assert_allclose(call(f), call(lambda x: 4.0 * x), rtol=1e-6)


def test_one_transformed_function_follows_its_captures():
    f, change = array()
    log_det, ruled = density.log_abs_det_jacobian(f), density.rule(f, log_det=lambda x: x[0])
    first = log_det(X), ruled(X)
    change()
    assert np.isclose(log_det(X) - first[0], 2 * np.log(2))
    np.testing.assert_allclose(ruled(X), 2 * first[1])
