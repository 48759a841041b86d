"""Injectivity is proved, assumed or refuted; a refusal names the operation and its line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl.density import NotInjectiveError
from funcdl.density._analysis import analyze
from funcdl.density._inversion import injectivity
from funcdl.density._inversion.invert import judge_each

VERDICTS = {
    "sinh": (jnp.sinh, "proved"),
    "x + tanh x": (lambda x: x + jnp.tanh(x), "proved"),
    "square of exp": (lambda x: jnp.exp(x) ** 2, "proved"),
    "x + 0.9 sin x": (lambda x: x + 0.9 * jnp.sin(x), "proved"),
    "residual": (lambda x: x + 0.5 * jnp.tanh(x[::-1]), "assumed"),
    "square": (lambda x: x**2, "refuted"),
    "sine": (lambda x: jnp.sin(x), "refuted"),
    "x + 2 sin x": (lambda x: x + 2 * jnp.sin(x), "refuted"),
    "floor": (lambda x: jnp.floor(x), "refuted"),
    "maximum with a constant": (lambda x: jnp.maximum(x, 0.5), "refuted"),
}


def analysis_of(f):
    return analyze(jax.make_jaxpr(f)(jnp.ones(2)), [0], [0])


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_of_each_map(name):
    f, expected = VERDICTS[name]
    verdicts = judge_each(analysis_of(f))
    assert any(v.startswith(expected) for v in verdicts), verdicts
    if expected == "refuted":
        assert any("test_injectivity.py" in v for v in verdicts)
    if expected == "proved":
        assert set(verdicts) == {"proved"}


def test_a_map_that_loses_numbers_is_refused_with_their_count():
    with pytest.raises(NotInjectiveError, match="only 1 of 2 numbers"):
        injectivity.require_square(analysis_of(lambda x: jnp.stack([x.sum()] * 2)))


def test_runs_and_turns_of_a_table():
    x = jnp.linspace(-2, 2, 9)[:, None]
    y = jnp.concatenate([x, x**2, -x, 1 / x], 1)
    _, rises = injectivity.runs(y)
    np.testing.assert_array_equal(rises[:1], [True])
    np.testing.assert_array_equal(injectivity.turns(y), [False, True, False, False])
