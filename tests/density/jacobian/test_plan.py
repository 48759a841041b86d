"""Each segment gets the cheapest plan that its structure allows, and every plan is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.density._analysis import analyze, run
from funcdl.density._jacobian.parts import Bottleneck, Dense, Singles

W, V = cases.normal(0, 5, 5), cases.normal(1, 5)
SKIP = np.ones(5) * 0.1
# name -> function of five numbers, the parts of its only segment that is not trivial
PLANS = {
    "one number each": (lambda x: x * jnp.exp(jnp.tanh(x)), {Singles}),
    "triangular": (lambda x: jnp.tril(W) @ jnp.tanh(x) + x, {Singles}),
    "permuted triangular": (lambda x: (jnp.tril(W) @ jnp.tanh(x) + x)[jnp.array([3, 0, 4, 1, 2])],
                            {Singles}),
    "rank one": (lambda x: x + SKIP * jnp.tanh(V @ x), {Bottleneck}),
    "dense": (lambda x: W @ jnp.tanh(x) + x, {Dense}),
    "blocks": (lambda x: jnp.concatenate([W[:2, :2] @ jnp.tanh(x[:2]) + x[:2],
                                          x[2:] * jnp.exp(x[:3])]), {Dense, Singles}),
}  # fmt: skip


def analysis_of(f):
    return analyze(jax.make_jaxpr(f)(jnp.ones(5)), [0], [0])


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_the_cheapest_and_right(name, x64):
    f, kinds = PLANS[name]
    analysis = analysis_of(f)
    x = jnp.asarray(cases.normal(2, 5))
    assert {type(part) for plan in analysis.plans for part in plan.parts} >= kinds
    assert Dense in kinds or not any(
        isinstance(part, Dense) for plan in analysis.plans for part in plan.parts
    )
    y, log_det = jax.jit(lambda x: run(analysis, [x]))(x)
    np.testing.assert_allclose(y[0], f(x))
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jax.jacfwd(f)(x))[1], rtol=1e-9)


def test_what_is_singular_by_its_pattern_is_known_before_it_runs():
    analysis = analysis_of(lambda x: jnp.concatenate([x[:4], x[:1]]) + jnp.roll(x, 0) * 0)
    (plan,) = [p for p in analysis.plans if p.blocks is None]
    assert plan.parts == []
    assert run(analysis, [jnp.ones(5)])[1] == -jnp.inf


def test_the_determinant_of_a_constant_matrix_is_computed_while_tracing(x64):
    (plan,) = analysis_of(lambda x: jnp.asarray(W) @ x).plans
    (part,) = plan.parts
    np.testing.assert_allclose(np.abs(np.linalg.det(part.constant[0])), abs(np.linalg.det(W)), 1e-5)


def test_colors_are_as_few_as_the_largest_block():
    (plan,) = [p for p in analysis_of(PLANS["blocks"][0]).plans if len(p.parts) == 2]
    (dense,) = [part for part in plan.parts if isinstance(part, Dense)]
    assert len(dense.seeds) == 2
