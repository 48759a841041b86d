"""What a function captured crosses jit, grad and vmap as its leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from funcdl._closure import hoisted

X = jnp.asarray([1.0, 2.0, 4.0])


@jax.jit
def call(f, x):
    return f(x)


def double(x):
    return 2 * x


def test_a_function_that_captured_nothing_traced_keeps_its_identity():
    constant = jnp.ones(3)
    for f in (double, lambda x: x * constant):
        assert hoisted(f, (X,)).func is f
    bound = Partial(lambda a, x: a * x, jnp.ones(3))
    assert hoisted(bound, (X,)) is bound


def test_captured_tracers_become_leaves():
    def outer(scale, index):
        f = hoisted(lambda x: {"y": x[index] * scale}, (X,))
        assert len(jax.tree.leaves(f)) == 2
        return call(f, X)["y"].sum()

    index = jnp.asarray([2, 0])
    for transform in (lambda f: f, jax.jit):
        value, slope = transform(jax.value_and_grad(outer))(3.0, index)
        assert (value, slope) == (15.0, 5.0)
        rows = jnp.stack([index, index + 0 * index, index[::-1] * 0])
        slopes = transform(jax.vmap(jax.grad(outer), (None, 0)))(3.0, rows)
        assert slopes.tolist() == [5.0, 5.0, 2.0]
    assert jax.grad(jax.grad(outer))(3.0, index) == 0


def test_a_typed_key_can_be_captured():
    def outer(key):
        return call(hoisted(lambda x: x + jax.random.normal(key, x.shape), (X,)), X)

    key = jax.random.key(1)
    np.testing.assert_allclose(jax.jit(outer)(key), X + jax.random.normal(key, (3,)))


def test_what_a_partial_binds_stays_bound():
    def outer(scale):
        f = hoisted(Partial(lambda a, x: a * scale * x, jnp.asarray([1.0, 1.0, 2.0])), (X,))
        return call(f, X).sum()

    assert jax.jit(jax.grad(outer))(3.0) == 11.0


def test_custom_derivatives_survive():
    @jax.custom_jvp
    def clipped(x):
        return jnp.clip(x, 0, 1)

    clipped.defjvp(lambda x, t: (clipped(*x), 7 * t[0]))

    def outer(scale):
        return call(hoisted(lambda x: clipped(x * scale), (X,)), X).sum()

    assert jax.jit(jax.grad(outer))(1.0) == 7 * X.sum()


def test_every_form_is_computed_with_its_own_size_and_others_are_refused():
    def outer(scale, *, at):
        f = hoisted(lambda x: x.mean() * scale, (X,), (X[:2],))
        return call(f, at)

    np.testing.assert_allclose(jax.jit(outer)(3.0, at=X), 7, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(outer)(3.0, at=X[:2]), 4.5, rtol=1e-6)
    with pytest.raises(ValueError, match=r"arguments are .*\(1,\).*traced for .*\(3,\).*\(2,\)"):
        jax.jit(outer)(3.0, at=X[:1])
