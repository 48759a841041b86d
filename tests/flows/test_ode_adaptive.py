"""Steps by tolerance against fixed ones, where diffrax is installed and imports."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import flows

A = 0.5 * np.random.default_rng(0).normal(size=(3, 3))
X = np.random.default_rng(1).normal(size=3)


@pytest.fixture
def diffrax():
    return pytest.importorskip("diffrax", exc_type=ImportError)


def swirl(t, x, a):
    return jnp.tanh(a @ x) + jnp.sin(3 * t) * x[::-1]


@pytest.mark.usefixtures("diffrax", "x64")
def test_the_path_and_its_trace_are_those_of_small_steps():
    z, log_det = jax.jit(flows.flow_ode_log_det_adaptive(swirl, tol=1e-9, t1=2.0))(X, A)
    expected = jax.jit(flows.flow_ode_log_det(swirl, steps=200, t1=2.0))(X, A)
    np.testing.assert_allclose(z, expected[0], atol=1e-7)
    np.testing.assert_allclose(log_det, expected[1], atol=1e-7)
    there = flows.flow_ode_adaptive(swirl, tol=1e-9, t1=2.0)
    back = flows.flow_ode_adaptive(swirl, tol=1e-9, t0=2.0, t1=0.0)
    np.testing.assert_allclose(jax.jit(lambda x: back(there(x, A), A))(X), X, atol=1e-7)


@pytest.mark.usefixtures("diffrax", "x64")
def test_its_gradient_is_that_of_small_steps():
    total = lambda f: lambda a: (lambda z, log_det: (z**2).sum() + log_det)(*f(X, a))
    found = jax.jit(jax.grad(total(flows.flow_ode_log_det_adaptive(swirl, tol=1e-9))))(A)
    expected = jax.jit(jax.grad(total(flows.flow_ode_log_det(swirl, steps=100))))(A)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.usefixtures("diffrax")
def test_what_does_not_come_to_its_end_is_nan():
    explode = flows.flow_ode_adaptive(lambda t, x: x**2, t1=2.0)  # x = 1 / (1 - t)
    assert jnp.isnan(explode(jnp.ones(1))).all()


def test_without_diffrax_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    for make in (flows.flow_ode_adaptive, flows.flow_ode_log_det_adaptive):
        with pytest.raises(ImportError, match=r"funcdl\[ode\]"):
            make(swirl)
