"""The determinant lemma divides by no diagonal entry that may be 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import density
from funcdl.density._analysis import analyze
from funcdl.density._jacobian.parts import Bottleneck

SUM = np.full(70, 0.1)
U, V = cases.normal(0, 70, 2) / 9, cases.normal(1, 2, 70)


def shared(x, u, v):
    return u[: len(x)] @ jnp.tanh(v[:, : len(x)] @ x)


# maps whose Jacobian is a diagonal plus a matrix of low rank, with zeros on the diagonal at 0
MAPS = {
    "cube and sum": lambda x: x**3 + 0.1 * x.sum(),
    "fifth power": lambda x: x**5 + 0.1 * x.sum(),
    "rank 2": lambda x: x**3 + shared(x, U, V),
    "sine": lambda x: x - jnp.sin(x) + shared(x, U, V),
    "reversed": lambda x: (x**3)[::-1] + 0.1 * x.sum(),
}


def reference(f):
    return lambda x: jnp.linalg.slogdet(jax.jacfwd(f)(x))[1]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("n", [5, 70])
def test_values_and_derivatives_at_zeros(name, n, x64):
    f, x = MAPS[name], jnp.asarray(cases.normal(2, 70)[:n])
    found = density.log_abs_det_jacobian(f)
    directions = jnp.asarray(cases.normal(3, n))

    def derivatives(g):
        slope = lambda x: directions @ jax.grad(g)(x)
        return jax.jit(lambda x: (g(x), jax.grad(g)(x), jax.grad(slope)(x)))

    ours, dense = derivatives(found), derivatives(reference(f))
    zeros = 2 if name in ("rank 2", "sine") else 1
    for count in range(zeros + 1):
        point = x.at[:count].set(0)
        for a, b in zip(ours(point), dense(point)):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)
    assert found(x.at[: zeros + 1].set(0)) == -np.inf


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_units_of_the_map_do_not_matter(scale):
    x = jnp.asarray(cases.normal(2, 70), jnp.float32).at[3].set(0)
    f = lambda x: scale * (x**3 + 0.1 * x.sum())
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(x, float))
        expected = reference(f)(wide)
    assert np.isclose(density.log_abs_det_jacobian(f)(x), expected, rtol=1e-5)


def test_a_diagonal_that_is_never_zero_has_no_pivots():
    kinds = {
        True: lambda x: x + SUM * jnp.tanh(x.sum()),
        False: lambda x: x**3 + SUM * jnp.tanh(x.sum()),
    }
    for never_zero, f in kinds.items():
        analysis = analyze(jax.make_jaxpr(f)(jnp.ones(70)), [0], [0])
        (part,) = [p for plan in analysis.plans for p in plan.parts if isinstance(p, Bottleneck)]
        assert part.never_zero is never_zero


@pytest.mark.parametrize("n", [5, 70])
def test_an_inverse_passes_through_a_zero(n, x64):
    f = MAPS["cube and sum"]
    x = jnp.asarray(cases.normal(4, 70)[:n]).at[1].set(0)
    np.testing.assert_allclose(density.inverse(f)(f(x)), x, atol=1e-7)
