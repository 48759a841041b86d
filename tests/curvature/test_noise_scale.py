"""The gradient noise scale, against its closed form and over many draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import curvature


def loss(w, x):
    return 0.5 * ((w[None] - x) ** 2).sum(axis=1).mean()


@pytest.mark.usefixtures("x64")
def test_it_is_the_ratio_of_unbiased_terms_and_its_error_that_of_leaving_one_out():
    x, w = cases.normal(0, 9, 2) + 1, jnp.zeros(2)

    def plain(x):
        n, g = len(x), -x
        mean = g.mean(axis=0)
        spread = np.trace(np.cov(g.T))
        return spread / (mean @ mean - spread / n)

    found = curvature.noise_scale(loss, w, jnp.asarray(x))
    np.testing.assert_allclose(found.value, plain(x), rtol=1e-10)
    parts = np.asarray([plain(np.delete(x, i, axis=0)) for i in range(9)])
    stderr = np.sqrt(((parts - parts.mean()) ** 2).sum() * 8 / 9)
    np.testing.assert_allclose(found.stderr, stderr, rtol=1e-10)


def test_two_standard_errors_cover_the_truth_in_nine_of_ten_draws(key):
    mean, spread = jnp.asarray([1.0, 0.5]), jnp.asarray([2.0, 1.0])
    x = mean[None, None] + spread[None, None] * jax.random.normal(key, (200, 256, 2))
    found = jax.jit(jax.vmap(lambda x: curvature.noise_scale(loss, jnp.zeros(2), x)))(x)
    true = (spread**2).sum() / (mean**2).sum()
    covered = jnp.abs(found.value - true) <= 2 * found.stderr
    assert covered.mean() >= 0.9


def test_two_examples_are_too_few():
    with pytest.raises(ValueError, match="2 examples; expected at least 3"):
        curvature.noise_scale(loss, jnp.zeros(2), jnp.ones((2, 2)))
