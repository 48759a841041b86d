"""Bounds hold in the direction they state, are close for the best critic, and train one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.stats import mi_bounds

RHO, N, RUNS = 0.8, 64, 600
INFORMATION = -0.5 * np.log(1 - RHO**2)
LOWER = ("info_nce", "nwj", "donsker_varadhan")


def draw(key):
    z = jax.random.normal(key, (2, N))
    return z[0], RHO * z[0] + (1 - RHO**2) ** 0.5 * z[1]


def log_conditionals(x, y, rho=RHO):
    spread = (1 - rho**2) ** 0.5
    return jax.scipy.stats.norm.logpdf(y[None], rho * x[:, None], spread)


def ratios(x, y, rho=RHO):
    return log_conditionals(x, y, rho) - jax.scipy.stats.norm.logpdf(y)[None]


@jax.jit
@jax.vmap
def runs(key):
    x, y = draw(key)
    best, poor = ratios(x, y), ratios(x, y, 0.4)
    return {
        "info_nce": (mi_bounds.info_nce(best), mi_bounds.info_nce(poor)),
        "nwj": (mi_bounds.nwj(1 + best), mi_bounds.nwj(1 + poor)),
        "donsker_varadhan": (mi_bounds.donsker_varadhan(best), mi_bounds.donsker_varadhan(poor)),
        "of the other conditional": (mi_bounds.info_nce(log_conditionals(x, y).T),),
        "of the wrong conditional": (mi_bounds.info_nce(log_conditionals(x, y)),),
        "leave_one_out": (mi_bounds.leave_one_out(log_conditionals(x, y)),),
    }


@pytest.fixture(scope="module")
def estimates():
    found = runs(jax.random.split(jax.random.key(0), RUNS))
    means = jax.tree.map(lambda x: (x.mean().item(), x.std().item() / RUNS**0.5), found)
    return {name: list(pair) for name, pair in means.items()}


@pytest.mark.parametrize("name", LOWER)
def test_a_lower_bound_lies_below_and_the_best_critic_is_close(estimates, name):
    (best, error), (poor, _) = estimates[name]
    bias = 0.02 if name == "donsker_varadhan" else 0  # of the logarithm of a mean, upwards
    assert best < INFORMATION + 4 * error + bias
    assert best > INFORMATION - 4 * error - 0.02
    assert poor < best - 0.05


def test_the_critic_of_info_nce_is_free_in_x_and_not_in_y(estimates):
    """Here log p(x | y) is ``log_conditionals(y, x)``, the transpose for this symmetric pair."""
    best, other, wrong = (
        np.mean(estimates[name][0])
        for name in ("info_nce", "of the other conditional", "of the wrong conditional")
    )
    assert abs(best - other) < 0.01
    assert wrong < best - 0.05


def test_an_upper_bound_lies_above_and_is_close(estimates):
    ((value, error),) = estimates["leave_one_out"]
    assert INFORMATION - 4 * error < value < INFORMATION + 4 * error + 0.02
    assert value > estimates["info_nce"][0][0]


def test_one_bound_cannot_exceed_the_logarithm_of_the_pairs():
    scores = jnp.asarray(50 * cases.normal(0, 5, 5), jnp.float32)
    assert mi_bounds.info_nce(scores) <= np.log(5)
    assert mi_bounds.info_nce(100 * jnp.eye(5)) == pytest.approx(np.log(5))


def test_bounds_are_their_formulas():
    s = cases.normal(1, 4, 4)
    others = s[~np.eye(4, dtype=bool)]
    diagonal = np.diag(s).mean()
    scores = jnp.asarray(s, jnp.float32)
    expected = {
        "info_nce": np.mean(np.diag(s) - np.log(np.exp(s).mean(axis=1))),
        "donsker_varadhan": diagonal - np.log(np.exp(others).mean()),
        "nwj": diagonal - np.exp(others - 1).mean(),
        "leave_one_out": np.mean(
            [
                s[i, i] - np.log(np.mean([np.exp(s[j, i]) for j in range(4) if j != i]))
                for i in range(4)
            ]
        ),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(mi_bounds, name)(scores), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["info_nce", "donsker_varadhan", "leave_one_out"])
def test_large_scores_overflow_nothing(name):
    scores = jnp.asarray(1e4 * cases.normal(2, 4, 4), jnp.float32)
    value, slope = jax.value_and_grad(getattr(mi_bounds, name))(scores)
    assert jnp.isfinite(value)
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("name", mi_bounds.__all__)
@pytest.mark.parametrize("where", ["everywhere", "in a column"])
def test_pairs_that_never_mix_have_slopes_of_the_diagonal_alone(name, where):
    excluded = ~np.eye(4, dtype=bool) & ((where == "everywhere") | (np.arange(4) == 1)[None])
    scores = jnp.where(jnp.asarray(excluded), -jnp.inf, 1.0)
    value, slope = jax.value_and_grad(getattr(mi_bounds, name))(scores)
    assert value > 0
    assert jnp.isfinite(slope).all()
    assert (slope[excluded] == 0).all()
    if name != "info_nce":
        np.testing.assert_allclose(jnp.diagonal(slope), 1 / 4)


def test_a_lower_bound_trains_its_critic_to_the_truth(key):
    x, y = (v.reshape(-1) for v in jax.vmap(draw)(jax.random.split(key, 8)))

    @jax.jit
    def ascend(params):
        def step(params, _):
            scores = params[0] * x[:, None] * y[None] - params[1] * (x[:, None] ** 2 + y[None] ** 2)
            return params, mi_bounds.info_nce(scores)

        def loss(params):
            return -step(params, None)[1]

        def update(params, _):
            return params - 0.3 * jax.grad(loss)(params), None

        params = jax.lax.scan(update, params, length=200)[0]
        return params, -loss(params)

    params, value = ascend(jnp.zeros(2))
    assert abs(value - INFORMATION) < 0.12
    np.testing.assert_allclose(params[0], RHO / (1 - RHO**2), rtol=0.25)


@pytest.mark.usefixtures("x64")
def test_bounds_are_differentiable_twice_in_both_modes():
    def every(scores):
        return [getattr(mi_bounds, name)(scores) for name in mi_bounds.__all__]

    cases.check_second(every, (cases.normal(3, 3, 3),))
