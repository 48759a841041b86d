"""The density of two moons integrates to 1 and is that of scikit-learn's points."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import _moons

pytestmark = pytest.mark.usefixtures("x64")


def test_the_density_integrates_to_one_and_has_the_mean_of_the_moons():
    x, y = np.linspace(-2, 3, 251), np.linspace(-1.5, 2, 176)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    p = np.exp(jax.jit(jax.vmap(_moons.log_prob))(jnp.asarray(grid)))
    cell = (x[1] - x[0]) * (y[1] - y[0])
    np.testing.assert_allclose(p.sum() * cell, 1, atol=1e-9)
    np.testing.assert_allclose((p[:, None] * grid).sum(axis=0) * cell, [0.5, 0.25], atol=1e-9)


def test_it_is_the_density_of_the_points_of_scikit_learn():
    """No density has a lower mean of minus its logarithm than the true one: shifts cost."""
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.make_moons(20000, noise=0.1, random_state=0)[0]
    log_prob = jax.jit(lambda x, noise: jax.vmap(lambda x: _moons.log_prob(x, noise))(x).mean())
    best = log_prob(jnp.asarray(theirs), 0.1)
    for shift, noise in (([0.03, 0.0], 0.1), ([0.0, 0.03], 0.1), ([0, 0], 0.11), ([0, 0], 0.09)):
        assert log_prob(jnp.asarray(theirs + np.asarray(shift)), noise) < best - 0.005
    ours = log_prob(jnp.asarray(_moons.sample(0, 20000)), 0.1)
    np.testing.assert_allclose(ours, best, atol=0.03)
