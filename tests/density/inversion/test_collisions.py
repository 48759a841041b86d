"""Maps whose determinant keeps its sign, but which send several points to one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density
from funcdl.density._analysis import analyze
from funcdl.density._inversion.collisions import collision


def of_complex(g):
    def f(x):
        z = g(jax.lax.complex(x[0], x[1]))
        return jnp.stack([z.real, z.imag])

    return f


def of_quaternion(x):
    a, v = x[0], x[1:]
    return jnp.concatenate([(a**2 - v @ v)[None], 2 * a * v])


FOLDING = {
    "square of two reals": lambda x: jnp.stack([x[0] ** 2 - x[1] ** 2, 2 * x[0] * x[1]]),
    "square of a complex number": of_complex(lambda z: z**2),
    "cube": of_complex(lambda z: z**3),
    "exponential": of_complex(jnp.exp),
    "square of a quaternion": of_quaternion,
    "square in other units": lambda x: 1e-8 * of_complex(lambda z: z**2)(1e6 * x),
}
INJECTIVE = {
    "a linear map": of_complex(lambda z: (2 - 1j) * z),
    "a twist": lambda x: of_complex(lambda z: z * jnp.exp(0.2j * jnp.abs(z)))(x),
    "a radial map": lambda x: x * (1 + (x**2).sum()),
    "a residual map": lambda x: x + 0.4 * jnp.tanh(jnp.array([[0.3, 0.9], [-0.8, 0.5]]) @ x),
    "a saturated map": lambda x: jnp.tanh(jnp.array([[3.0, 0.9], [-0.8, 5.0]]) @ x),
}


@pytest.mark.parametrize("name", FOLDING)
def test_two_points_with_the_same_image_refute_a_map(name):
    f, x = FOLDING[name], jnp.ones(4 if "quaternion" in name else 2)
    with pytest.raises(density.NotInjectiveError, match="have the same image"):
        density.inverse(f)(f(x))
    assert density.inspect(f, x).injective.startswith("refuted")


@pytest.mark.parametrize("name", INJECTIVE)
def test_injective_maps_are_not_refuted(name):
    f, x = INJECTIVE[name], jnp.array([0.3, -0.4])
    assert not density.inspect(f, x).injective.startswith("refuted")
    np.testing.assert_allclose(density.inverse(f)(f(x)), x, rtol=1e-4)


def test_the_points_that_are_found_have_the_same_image(x64):
    f = FOLDING["square of two reals"]
    analysis = analyze(jax.make_jaxpr(f)(jnp.ones(2)), [0], [0])
    points = np.random.default_rng(0).normal(size=(12, 2))
    (plan,) = [p for p in analysis.plans if p.parts and len(p.segment.equations) > 4]
    a, b = collision(plan, analysis, {}, points)
    np.testing.assert_allclose(f(a), f(b), rtol=1e-9)
    np.testing.assert_allclose(a, -b, rtol=1e-9)


def test_a_map_that_may_not_end_is_not_searched():
    def f(x):
        return jax.lax.while_loop(lambda s: ~(s.sum() < 10), lambda s: s - jnp.roll(s, 1) / 9, x)

    assert density.inspect(f, jnp.ones(2)).numbers == 2
