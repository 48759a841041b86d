"""Known numbers travel backward and forward until nothing more follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.density._analysis import analyze
from funcdl.density._inversion.invert import route
from funcdl.density._inversion.propagation import follow

W = cases.normal(0, 2, 2)
LOWER = np.tril(cases.normal(1, 4, 4)) + 2 * np.eye(4)
# name -> function of four numbers; how many of them propagation leaves unknown
ROUTES = {
    "elementwise": (lambda x: jnp.sinh(2 * x + 1), 0),
    "moves": (lambda x: x[::-1].reshape(2, 2).T.ravel(), 0),
    "coupling": (lambda x: jnp.concatenate([x[:2], x[2:] * jnp.exp(W @ x[:2])]), 0),
    "masked coupling": (lambda x: jnp.where(np.arange(4) < 2, x, x + jnp.roll(jnp.tanh(
        jnp.where(np.arange(4) < 2, x, 0)), 2)), 0),
    "matrix": (lambda x: jnp.asarray(LOWER) @ x, 0),
    "cumulative sum": (lambda x: jnp.cumsum(x), 0),
    "x enters twice": (lambda x: x + 0.5 * jnp.tanh(x), 4),
    "half of it enters twice": (
        lambda x: jnp.concatenate([jnp.sinh(x[:2]), x[2:] + 0.5 * jnp.tanh(x[2:])]), 2),
    "power of a positive number": (lambda x: jnp.exp(x) ** 2, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTES)
def test_what_propagation_finds_is_right_and_the_rest_is_counted(name, x64):
    f, unknown = ROUTES[name]
    x = jnp.asarray(cases.normal(2, 4))
    analysis = analyze(jax.make_jaxpr(f)(x), [0], [0])
    values = dict(zip(analysis.program.main_out, [f(x)]))
    for e in analysis.program.equations:
        if not any(v in analysis.program.dynamic for v in e.variables):
            operands = [values[o] if o in e.variables else o for o in e.operands]
            values.update(zip(e.results, e.evaluate(*operands)))
    left = 0
    for segment in reversed(analysis.segments):
        way = route(analysis, segment)
        left += sum(int(mask.sum()) for mask in way.unknown.values())
        assert way.is_short == any(mask.any() for mask in way.unknown.values())
        if way.is_short:
            break
        found, reached = follow(way, values)
        assert reached
        values |= found
    assert left == unknown
    if not left:
        np.testing.assert_allclose(values[analysis.program.main_in[0]], x, rtol=1e-9)


def test_a_result_outside_of_the_image_is_not_reached():
    analysis = analyze(jax.make_jaxpr(jnp.exp)(jnp.ones(2)), [0], [0])
    (segment,) = analysis.segments
    (out,) = analysis.program.main_out
    for y, inside in (([1.0, 2.0], True), ([1.0, -2.0], False)):
        _, reached = follow(route(analysis, segment), {out: jnp.asarray(y)})
        assert bool(reached) is inside
