"""The density of two moons integrates to 1 and is that of scikit-learn's points."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from funcdl import density, flows, linalg

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


BLOCKS, WIDTH = 20, 32


def residual(own, z):
    """A step that is injective: its slope is less than 1."""
    size = linalg.spectral_norm(own["inner"]) * linalg.spectral_norm(own["outer"])
    step = own["outer"] @ jnp.tanh(own["inner"] @ z + own["bias"])
    return z + 0.95 * jnp.tanh(own["share"]) * step / (size + 1e-6)


def generate(params, z):
    """Map the base to the data."""
    z = jax.lax.scan(lambda z, own: (residual(own, z), None), z, params["blocks"])[0]
    return params["scale"] * z + params["shift"]


@pytest.mark.slow
def test_a_residual_map_is_trained_through_pushforward_to_the_density_of_the_moons():
    """Each density in the loss is that of a map which Newton steps invert, in reverse mode."""
    with jax.enable_x64(False):
        x = jnp.asarray(_moons.sample(0, 20_000))
        keys = jax.random.split(jax.random.key(0), 2)
        blocks = {
            "inner": jax.random.normal(keys[0], (BLOCKS, WIDTH, 2)),
            "bias": jnp.zeros((BLOCKS, WIDTH)),
            "outer": jax.random.normal(keys[1], (BLOCKS, 2, WIDTH)),
            "share": jnp.full(BLOCKS, 0.3),
        }
        params = {"blocks": blocks, "scale": x.std(axis=0), "shift": x.mean(axis=0)}
        steps = 5000
        adam = optax.chain(
            optax.clip_by_global_norm(5.0), optax.adam(optax.cosine_decay_schedule(3e-3, steps))
        )

        def log_prob(params, y):
            return density.pushforward(flows.standard_normal, Partial(generate, params))(y)

        def step(state, key):
            params, own = state
            batch = x[jax.random.randint(key, (128,), 0, len(x))]
            loss = lambda params: -jax.vmap(lambda y: log_prob(params, y))(batch).mean()
            value, slope = jax.value_and_grad(loss)(params)
            updates, own = adam.update(slope, own)
            return (optax.apply_updates(params, updates), own), value

        @jax.jit
        def train(params):
            keys = jax.random.split(jax.random.key(1), steps)
            (params, _), values = jax.lax.scan(step, (params, adam.init(params)), keys)
            return params, values

        params, values = train(params)
        assert jnp.isfinite(values).all()
        test = jnp.asarray(_moons.sample(1, 5000))
        found = jax.jit(jax.vmap(lambda y: log_prob(params, y)))(test)
        true = jax.jit(jax.vmap(_moons.log_prob))(test)
        assert jnp.isfinite(found).all()
        assert (true - found).mean() < 0.05
