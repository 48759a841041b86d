"""Sites of parameters in a jaxpr, and the gradient of each from its two factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl.per_example._recording.backward_pass import traced

W, B, V = cases.normal(0, 4, 3), cases.normal(1, 3), cases.normal(2, 3, 4)
TABLE, KERNEL = cases.normal(3, 5, 3), cases.normal(4, 2, 2, 1, 3)
X = cases.normal(5, 4)
# function of parameters and one example, the parameters, the example, the rules of its sites
USES = {
    "dense": (lambda p, x: jnp.tanh(x @ p[0] + p[1]), [W, B], X, ["matmul", "elementwise"]),
    "transposed": (lambda p, x: p[0].T @ x, [W], X, ["matmul"]),
    "reshaped and cut": (lambda p, x: x[:2] @ p[0].reshape(2, 6)[:, 1:4], [W], X, ["matmul"]),
    "joined": (lambda p, x: x @ jnp.concatenate([p[0], p[1][None]]), [W[:3], B], X,
               ["fallback", "fallback"]),
    "twice": (lambda p, x: (x @ p[0]) @ (p[0].T @ p[0]), [W], X, None),
    "looked up": (lambda p, i: jnp.tanh(p[0][i]).sum(0), [TABLE], np.array([1, 4, 1]), ["rows"]),
    "convolution": (lambda p, x: jax.lax.conv_general_dilated(
        x[None], p[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        [KERNEL], cases.normal(6, 3, 4, 1), ["convolution"]),
    "loop over steps": (lambda p, x: jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p[0]), x),
                        [cases.normal(7, 4, 4)], X, None),
    "unused": (lambda p, x: x * 2, [W], X, ["unused"]),
    "a call": (lambda p, x: jax.jit(lambda w: x @ w)(p[0]), [W], X, ["matmul"]),
}  # fmt: skip


def from_factors(site, pair, leaf):
    """The gradient in a parameter: the transposed placement of ``a^T g``."""
    a, g = pair
    if jnp.issubdtype(a.dtype, jnp.integer):
        value = jax.vmap(lambda rows, g: jnp.zeros(site.shape).at[rows].add(g))(a, g)
    else:
        value = site.unfold(jnp.einsum("bti,bto->bio", a, g))
    (gradient,) = jax.vjp(site.place, leaf)[1](value)
    return gradient


@pytest.mark.parametrize("name", USES)
def test_the_factors_of_all_sites_add_up_to_the_gradient(name, x64):
    f, params, example, rules = USES[name]
    params = [jnp.asarray(p) for p in params]
    found = traced(f, params, example)
    if rules is not None:
        assert [site.rule.split()[0] for site in found.sites] == rules
    if name == "looked up":
        return  # its rows are added up in ``_factor_algebra``
    recording = found.record(params, jnp.asarray(example))
    np.testing.assert_allclose(recording.value, f(params, example))
    cotangent = jnp.asarray(cases.normal(8, *recording.value.shape))
    expected = jax.vjp(lambda p: f(p, example), params)[1](cotangent)[0]
    sums = [jnp.zeros_like(p) for p in params]
    for site, pair in zip(found.sites, recording.pullback(cotangent)):
        sums[site.leaf] += from_factors(site, pair, params[site.leaf])
    for got, want in zip(sums, expected):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_a_site_knows_its_line_and_whether_its_parameter_moved_one_to_one():
    f = lambda p, x: (x @ p[0][:, :2]).sum() + x @ p[1]
    cut, whole = traced(f, [W, V.T], X).sites
    assert "test_backward_pass.py" in cut.where
    assert whole.injective
    assert whole.rule == "matmul"


def test_one_recording_serves_several_backward_passes(x64):
    f, params, example, _ = USES["dense"]
    params = [jnp.asarray(p) for p in params]
    recording = traced(f, params, example).record(params, jnp.asarray(example))
    one, two = (recording.pullback(c) for c in jnp.eye(3)[:2])
    both = recording.pullback(jnp.eye(3)[0] + jnp.eye(3)[1])
    for (_, a), (_, b), (_, c) in zip(one, two, both):
        np.testing.assert_allclose(a + b, c)
