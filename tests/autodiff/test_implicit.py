"""Derivatives of solutions against closed forms, and NaN where there is no solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.autodiff import implicit_argmin, implicit_fixed_point, implicit_root


def cubic(x, c):
    return x**3 + x - c


def newton(c):
    """A loop that stops by tolerance: reverse mode cannot enter it."""
    step = lambda x: x - cubic(x, c) / (3 * x**2 + 1)
    return jax.lax.while_loop(lambda x: jnp.abs(cubic(x, c)).max() > 1e-13, step, c / 2)


ROOT = implicit_root(newton, cubic)


@pytest.mark.usefixtures("x64")
def test_the_root_of_a_cubic_has_its_derivatives_to_second_order():
    c = jnp.asarray([2.0, -3.0])
    x = newton(c)
    slope = 1 / (3 * x**2 + 1)
    np.testing.assert_allclose(jax.jit(jax.jacrev(ROOT))(c), jnp.diag(slope), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(ROOT))(c), jnp.diag(slope), rtol=1e-12)
    bend = jax.jit(jax.hessian(lambda c: ROOT(c).sum()))(c)
    np.testing.assert_allclose(bend, jnp.diag(-6 * x * slope**3), rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_third_derivatives_are_right_too():
    third = jax.jit(jax.grad(jax.grad(jax.grad(ROOT))))(2.0)  # the root is 1
    np.testing.assert_allclose(third, _third(1.0), rtol=1e-12)


def _third(x):
    """Differentiate x' = 1 / (3 x² + 1) twice by hand."""
    s = 1 / (3 * x**2 + 1)
    return (-6 * s**3 + 6 * x * 3 * s**2 * 6 * x * s**2) * s


@pytest.mark.usefixtures("x64")
def test_a_linear_system_is_differentiable_to_second_order_in_matrix_and_vector():
    solved = implicit_root(jnp.linalg.solve, lambda x, a, b: a @ x - b)
    cases.check_second(solved, (cases.normal(0, 3, 3) + 3 * np.eye(3), cases.normal(1, 3)))


@pytest.mark.usefixtures("x64")
def test_a_large_system_is_solved_by_products():
    n = 300
    a = jnp.asarray(cases.normal(0, n, n) / 50 + np.diag(np.linspace(1, 3, n)))
    b, w = jnp.asarray(cases.normal(1, n)), jnp.asarray(cases.normal(2, n))
    f = lambda b: w @ implicit_root(lambda b: jnp.linalg.solve(a, b), lambda x, b: a @ x - b)(b)
    np.testing.assert_allclose(jax.jit(jax.grad(f))(b), np.linalg.solve(a.T, w), rtol=1e-10)
    along = jax.jit(lambda b: jax.jvp(f, (b,), (b,)))
    value, tangent = along(b)
    np.testing.assert_allclose(tangent, value, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_fixed_points_of_trees_under_vmap():
    def step(x, theta, start):
        del start
        return {"u": jnp.cos(theta["k"] * x["v"]), "v": x["u"] / theta["n"]}

    def iterate(theta, start):
        return jax.lax.fori_loop(0, 200, lambda _, x: step(x, theta, None), start)

    def slope(k):
        start = {"u": jnp.ones(2), "v": jnp.zeros(2)}
        point = implicit_fixed_point(iterate, step)
        return jax.grad(lambda k: point({"k": k, "n": 2}, start)["u"].sum())(k)

    ks = jnp.asarray([[0.5, 1.0], [0.7, 0.2]])
    got = jax.jit(jax.vmap(slope))(ks)
    u = jnp.ones((2, 2))
    for _ in range(200):
        u = jnp.cos(ks * u / 2)
    expected = -jnp.sin(ks * u / 2) * u / 2 / (1 + jnp.sin(ks * u / 2) * ks / 2)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_minimiser_of_ridge_is_that_of_its_closed_form():
    a, b = jnp.asarray(cases.normal(0, 6, 3)), jnp.asarray(cases.normal(1, 6))

    def closed(penalty, a):
        return jnp.linalg.solve(a.T @ a + penalty * jnp.eye(3), a.T @ b)

    def objective(x, penalty, a):
        return ((a @ x - b) ** 2).sum() + penalty * (x**2).sum()

    ours = jax.jit(jax.hessian(lambda p: implicit_argmin(closed, objective)(p, a).sum()))(0.5)
    true = jax.jit(jax.hessian(lambda p: closed(p, a).sum()))(0.5)
    np.testing.assert_allclose(ours, true, rtol=1e-11)
    ours = jax.jit(jax.jacrev(implicit_argmin(closed, objective), argnums=1))(0.5, a)
    true = jax.jit(jax.jacrev(closed, argnums=1))(0.5, a)
    np.testing.assert_allclose(ours, true, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_what_the_equation_closes_over_is_differentiated():
    def total(s):
        return implicit_root(lambda c: newton(s * c), lambda x, c: cubic(x, s * c))(2.0)

    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(mode(total))(1.0), 2 / 4, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_derivative_is_nan_where_nothing_was_solved():
    early = implicit_root(lambda c: newton(c) + 1e-4, cubic)
    assert float(early(2.0)) == pytest.approx(1.0001)
    assert jnp.isnan(jax.jit(jax.grad(early))(2.0))
    singular = implicit_root(lambda c: 0 * c, lambda x, c: (x - c) ** 3)
    assert jnp.isnan(jax.jit(jax.grad(singular))(0.0))
    in_part = implicit_root(
        lambda c: jnp.stack([c, c]), lambda x, c: (x.sum() - 2 * c)[None] + 0 * x
    )
    assert jnp.isnan(jax.jit(jax.jacfwd(in_part))(1.0)).all()


def test_in_single_precision_it_is_right_to_single_precision():
    loose = lambda c: jax.lax.fori_loop(0, 30, lambda _, x: (x + (c - x**3)) / 2, c / 2)
    x = jnp.float32(0.5)
    c = x**3 + x
    root = implicit_root(loose, cubic)
    np.testing.assert_allclose(jax.jit(jax.grad(root))(c), 1 / (3 * x**2 + 1), rtol=1e-5)
