"""What is done with K-FAC and EK-FAC: blocks, solves, derivatives also at ties, preconditioning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl import curvature, losses, operators

BUILDERS = curvature.kfac, curvature.ekfac
P = {"w": cases.normal(1, 3, 4) / 2, "b": cases.normal(3, 4), "v": cases.normal(2, 4, 3)}
BATCH = cases.normal(0, 6, 3), np.arange(6) % 3


def f(params, batch):
    h = jnp.tanh(jnp.matmul(batch[0], params["w"]) + params["b"][None])
    return jnp.matmul(h, params["v"])


def head(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def close(found, expected, tol=1e-12):
    np.testing.assert_allclose(found, expected, atol=tol * np.abs(expected).max())


@pytest.mark.usefixtures("x64")
def test_blocks_shifts_and_maps_over_parameters():
    params, batch = cases.cast((P, BATCH), jnp.float64)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)

    @jax.jit
    def forms(params, batch):
        found = []
        for build in BUILDERS:
            k = build(f, head, params, batch)
            part = k.block(("b", "v"))
            solved = part.shift(0.1).inv()
            inverses = jax.vmap(lambda p, build=build: build(f, head, p, batch).inv(0.1))(many)
            twice = jax.vmap(lambda inverse: (inverse.dense(), inverse.logdet()))(inverses)
            off = k.block("b", "v").dense(), k.block(("b", "w"), ("w", "v")).dense()
            found.append((k.dense(), part.dense(), solved.dense(), solved.logdet(), twice, off))
        return found

    eager = [build(f, head, params, batch).dense() for build in BUILDERS]
    for (whole, part, inverse, logdet, twice, off), plain in zip(forms(params, batch), eager):
        close(whole, plain)
        shifted = np.asarray(whole) + 0.1 * np.eye(28)
        close(twice[0][0], np.linalg.inv(shifted))
        np.testing.assert_allclose(twice[1][0], -np.linalg.slogdet(shifted)[1], rtol=1e-12)
        close(part, whole[:16, :16])  # leaves are b, v, w
        shifted = np.asarray(part) + 0.1 * np.eye(16)
        close(inverse, np.linalg.inv(shifted))
        np.testing.assert_allclose(logdet, -np.linalg.slogdet(shifted)[1], rtol=1e-12)
        assert not off[0].any()
        close(off[1], whole[np.ix_(np.r_[:4, 16:28], np.r_[4:28])])


def test_other_parameters_and_data_do_not_trace_again():
    traces = 0

    @jax.jit
    def product(k, v):
        nonlocal traces
        traces += 1
        return k @ v

    for build in BUILDERS:
        for scale in (1, 2):
            params, batch = cases.cast((P, (scale * BATCH[0], BATCH[1])), jnp.float32)
            product(build(f, head, params, batch), params)
    assert traces == 2


@pytest.mark.parametrize(
    "build", [curvature.kfac, pytest.param(curvature.ekfac, marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("x64")
def test_derivatives_of_products_solves_and_logdet_are_those_of_differences(build):
    x, v = jnp.asarray(cases.normal(5, 4, 2)), jnp.asarray(cases.normal(6, 2, 2))

    def numbers(w, damping):
        model = lambda w, batch: jnp.tanh(jnp.matmul(batch[0], w))
        k = build(model, squares, w, (x,))
        return k @ v, 0.1 * k.shift(damping).solve(v), k.inv(damping).logdet()

    cases.check_second(numbers, (cases.normal(7, 2, 2), np.asarray(0.3)))


def linear(w, batch):
    return jnp.matmul(batch[0], w)


def squares(z, batch):
    return 0.5 * (z**2).sum(axis=1).mean()


@pytest.mark.usefixtures("x64")
def test_where_eigenvalues_of_a_factor_are_tied_derivatives_of_kfac_are_right_of_ekfac_nan():
    """Orthogonal inputs: A is a multiple of the identity; it changes with the inputs."""
    x = jnp.linalg.qr(jnp.asarray(cases.normal(7, 4, 3)))[0] * 2
    w, v = jnp.ones((3, 2)), jnp.asarray(cases.normal(8, 3, 2))

    def numbers(x):
        k = curvature.kfac(linear, squares, w, (x,)).shift(0.1)
        return (k.solve(v) * v[::-1]).sum(), k.logdet()

    def reference(x):
        a = jnp.kron(x.T @ x / 4, jnp.eye(2)) + 0.1 * jnp.eye(6)
        x = jnp.linalg.solve(a, v.reshape(-1)).reshape(3, 2)
        return (x * v[::-1]).sum(), jnp.linalg.slogdet(a)[1]

    e, d = jnp.asarray(cases.normal(9, 2, 4, 3))

    def derivatives(g):
        along = lambda x: jax.jvp(g, (x,), (e,))[1]
        backward = lambda x: sum((y * e).sum() for y in jax.jacrev(g)(x))
        second = lambda h: jax.jvp(h, (x,), (d,))[1]
        return along(x), backward(x), second(along), second(backward), jax.jacrev(backward)(x)

    found, expected = jax.jit(lambda: (derivatives(numbers), derivatives(reference)))()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, other, atol=1e-12)

    product = lambda x: (curvature.ekfac(linear, squares, w, (x,)) @ v).sum()
    assert jnp.isnan(jax.grad(product)(x)).all()


@pytest.mark.usefixtures("x64")
def test_a_factor_of_low_rank_is_no_tie_for_ekfac():
    w, x, e = (
        jnp.asarray(cases.normal(s, *shape)) for s, shape in ((1, (4, 2)), (2, (2, 4)), (3, (2, 4)))
    )  # two examples, four inputs
    v = jnp.asarray(cases.normal(4, 4, 2))
    model = lambda w, batch: jnp.tanh(jnp.matmul(batch[0], w))
    number = jax.jit(lambda x: (curvature.ekfac(model, squares, w, (x,)) @ v).sum())
    slope = jax.jit(jax.grad(number))(x)
    h = 1e-5
    differences = (number(x + h * e) - number(x - h * e)) / (2 * h)
    np.testing.assert_allclose((slope * e).sum(), differences, rtol=1e-7)


@pytest.mark.usefixtures("x64")
def test_as_preconditioners_they_save_conjugate_gradients_most_steps():
    """Inputs of very different size, so that the Gauss-Newton matrix is ill-conditioned."""
    shapes = {"w": (8, 10), "b": (10,), "v": (10, 4)}
    params = {name: cases.normal(len(s), *s) / s[0] ** 0.5 for name, s in shapes.items()}
    inputs = cases.normal(0, 200, 8) * np.geomspace(0.05, 5, 8)
    params, batch = cases.cast((params, (inputs, np.arange(200) % 4)), jnp.float64)
    b = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)

    @jax.jit
    def solutions(params, batch):
        a = curvature.ggn(f, head, params, batch).shift(1e-4)
        inverses = [build(f, head, params, batch).inv(1e-4) for build in BUILDERS]
        return [operators.cg(a, b, precondition=m) for m in (None, *inverses)]

    plain, *others = solutions(params, batch)
    assert plain.converged
    for one in others:
        assert one.converged
        assert one.steps <= 0.7 * plain.steps
        close(ravel_pytree(one.x)[0], ravel_pytree(plain.x)[0], 1e-2)


@pytest.mark.usefixtures("x64")
def test_the_inverse_is_the_solve_and_its_solve_the_product():
    k = curvature.kfac(f, head, *cases.cast((P, BATCH), jnp.float64))
    inverse = k.inv(0.1)
    v = cases.cast(P, jnp.float64)
    close(ravel_pytree(inverse @ v)[0], ravel_pytree(k.shift(0.1).solve(v))[0])
    close(ravel_pytree(inverse.solve(v))[0], ravel_pytree(k.shift(0.1) @ v)[0])
    np.testing.assert_allclose(inverse.logdet(), -k.shift(0.1).logdet(), rtol=1e-12)
    assert inverse.symmetric
    assert inverse.psd
    close(inverse.inv().dense(), k.shift(0.1).dense())


class TestUses:
    """Parameters of which no factors are known."""

    @pytest.mark.usefixtures("x64")
    def test_their_block_is_exact(self):
        """A table that is looked up and multiplied with, a part, an inverse, and one unused."""
        params = cases.cast(
            {
                "table": cases.normal(1, 4, 3),
                "a": cases.normal(2, 3, 3) + 3 * np.eye(3),
                "part": cases.normal(3, 5, 3),
                "none": np.ones(2),
            },
            jnp.float64,
        )
        batch = jnp.asarray([0, 3, 1, 1]), jnp.asarray([1, 2, 0, 3])

        def model(params, batch):
            x = params["table"][batch[0]] @ jnp.linalg.inv(params["a"])
            x = jnp.tanh(jnp.matmul(x, params["part"][1:4]))
            return jnp.matmul(x, params["table"].T)

        forms = *BUILDERS, curvature.ggn
        *found, exact = (build(model, head, params, batch) for build in forms)
        for k in found:
            for name in params:
                expected = exact.block(name).dense()
                np.testing.assert_allclose(k.block(name).dense(), expected, atol=1e-12)

    def test_a_model_in_bfloat16_has_operators_in_float32(self):
        def model(params, batch):
            low = lambda x: x.astype(jnp.bfloat16)
            return jnp.matmul(low(batch[0]), low(params["w"])).astype(jnp.float32)

        params, batch = cases.cast(({"w": P["w"]}, (BATCH[0], BATCH[1])), jnp.float32)
        x = np.asarray(batch[0].astype(jnp.bfloat16), np.float64)
        k = curvature.kfac(model, squares, params, batch)
        v = jnp.asarray(cases.normal(4, 3, 4), jnp.float32)
        expected = x.T @ x / 6 @ np.asarray(v, np.float64)
        np.testing.assert_allclose((k @ {"w": v})["w"], expected, rtol=1e-5, atol=1e-5)
