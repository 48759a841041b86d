"""Trees are vectors, and paths name their leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import cases
from funcdl import _tree

TREE = {
    "a": [jnp.zeros(2), {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(())}],
    "b": jnp.zeros(1),
}
SIZE = 8
VALUES = st.lists(st.floats(-10, 10, width=32), min_size=SIZE, max_size=SIZE)
flatten, unflatten = _tree.ravel(TREE)


def make(values):
    return unflatten(jnp.asarray(values, jnp.float32))


@settings(max_examples=30, deadline=None)
@given(VALUES, VALUES, st.floats(-3, 3, width=32))
def test_trees_compute_as_the_vectors_that_they_are(x, y, a):
    x_flat, y_flat = np.float64(x), np.float64(y)
    x, y = make(x), make(y)

    def close(got, want):
        return np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)

    close(_tree.dot(x, y), x_flat @ y_flat)
    close(_tree.norm(x), np.linalg.norm(x_flat))
    close(flatten(_tree.axpy(a, x, y)), a * x_flat + y_flat)
    close(flatten(_tree.scale(a, x)), a * x_flat)
    close(flatten(_tree.add(x, y)), x_flat + y_flat)
    close(flatten(_tree.subtract(x, y)), x_flat - y_flat)
    basis = jax.tree.map(lambda *rows: jnp.stack(rows), x, y, x)
    close(_tree.project(basis, y), np.stack([x_flat, y_flat, x_flat]) @ y_flat)
    weights = jnp.asarray([1.0, -2.0, a])
    close(flatten(_tree.combine(basis, weights)), (1 + a) * x_flat - 2 * y_flat)
    two = _tree.combine(basis, jnp.stack([weights, jnp.zeros(3)]))
    close(flatten(jax.tree.map(lambda rows: rows[0], two)), (1 + a) * x_flat - 2 * y_flat)
    assert _tree.size(x) == SIZE


def test_sums_of_low_precision_numbers_are_made_in_float32():
    ones = jnp.ones(1000, jnp.bfloat16)
    assert _tree.dot(ones, ones) == 1000  # in bfloat16 it would stop at 256
    assert _tree.dot(ones, ones).dtype == _tree.norm({"a": ones}).dtype == jnp.float32
    assert _tree.axpy(2.0, jnp.ones(1), jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.usefixtures("x64")
def test_the_norm_is_differentiable_away_from_zero_and_has_derivative_0_there():
    cases.check_second(_tree.norm, ({"a": np.asarray([3.0, -4.0])},))
    both = jax.jit(lambda x: (jax.grad(_tree.norm)(x), jax.hessian(_tree.norm)(x)))
    gradient, bend = both({"a": jnp.zeros(2)})
    assert gradient["a"].tolist() == [0, 0]
    assert jnp.isfinite(ravel_pytree(bend)[0]).all()


def test_the_norm_of_nan_is_nan_not_zero():
    assert jnp.isnan(_tree.norm({"a": jnp.asarray([1.0, jnp.nan])}))
    assert jnp.isinf(_tree.norm({"a": jnp.asarray([1.0, jnp.inf])}))


GLOBS = {
    "a": ["a/0", "a/1/bias", "a/1/kernel"],
    "a/1": ["a/1/bias", "a/1/kernel"],
    "/a/0/": ["a/0"],
    "a/*": ["a/0", "a/1/bias", "a/1/kernel"],
    "*/*/kernel": ["a/1/kernel"],
    "**/kernel": ["a/1/kernel"],
    "**/b": ["b"],
    "**": ["a/0", "a/1/bias", "a/1/kernel", "b"],
    "a/**": ["a/0", "a/1/bias", "a/1/kernel"],
    "a/1/k*l": ["a/1/kernel"],
}


@pytest.mark.parametrize("glob", GLOBS)
def test_a_glob_names_leaves_and_branches(glob):
    names = _tree.paths(TREE)
    assert [n for n, m in zip(names, _tree.matches(TREE, glob)) if m] == GLOBS[glob]


def test_several_globs_are_a_union():
    assert _tree.matches(TREE, ("b", "a/0", "a/*")) == [True] * 4


def test_what_was_selected_merges_back():
    tree = make(range(SIZE))
    chosen, merge = _tree.select(tree, ("a/1", "b"))
    assert chosen["a"][0] is None
    assert jnp.array_equal(flatten(merge(chosen)), flatten(tree))
    doubled = merge(_tree.scale(2.0, chosen))
    assert jnp.array_equal(doubled["a"][0], tree["a"][0])
    assert jnp.array_equal(doubled["b"], 2 * tree["b"])


@pytest.mark.parametrize("glob", ["a/2", "kernel", "a/1/kernels", "a*/1/x", "A", "a.1"])
def test_a_glob_that_matches_nothing_names_the_nearest_path(glob):
    with pytest.raises(ValueError, match=r"matches nothing; the nearest path is '(a/|b)"):
        _tree.matches(TREE, glob)
    with pytest.raises(ValueError, match=r"no leaves"):
        _tree.matches({}, "a")


def test_one_wrong_glob_among_right_ones_is_refused():
    with pytest.raises(ValueError, match="'c' matches nothing"):
        _tree.matches(TREE, ("a", "c"))


def test_a_tree_of_another_form_is_refused_by_path():
    wrong = {**TREE, "b": jnp.zeros((1, 1))}
    with pytest.raises(
        ValueError, match=r"v differs from w at path 'b': .*\(1,\), got shape \(1, 1\)"
    ):
        _tree.check_like(wrong, TREE, "v", "w")
    with pytest.raises(
        ValueError, match=r"v differs from w: expected shape \(2,\), got shape \(3,\)"
    ):
        _tree.check_like(jnp.zeros(3), jnp.zeros(2), "v", "w")
    with pytest.raises(ValueError, match="expected the structure"):
        _tree.check_like({"a": jnp.zeros(1), "b": None}, {"a": jnp.zeros(1)}, "v", "w")
    _tree.check_like(
        TREE, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TREE), "v", "w"
    )


def test_leaves_that_are_not_floats_are_refused_by_path():
    with pytest.raises(TypeError, match="params at path 'a/1' has dtype int32"):
        _tree.check_floating({"a": [jnp.zeros(1), jnp.zeros(1, jnp.int32)]}, "params")
    with pytest.raises(TypeError, match="complex64"):
        _tree.check_floating(jnp.zeros(1, complex), "params")
    with pytest.raises(ValueError, match="params has no leaves"):
        _tree.check_floating([], "params")


def test_widened_converts_narrow_floats_and_nothing_else():
    tree = {"half": jnp.ones(2, jnp.bfloat16), "float": jnp.ones(2), "int": jnp.ones(2, jnp.int8)}
    wide = _tree.widened(tree)
    assert {k: x.dtype for k, x in wide.items()} == {
        "half": jnp.float32,
        "float": jnp.float32,
        "int": jnp.int8,
    }


def test_strong_drops_weak_types_and_keeps_keys():
    tree = _tree.strong({"weak": jnp.asarray(1.0), "number": 2, "key": jax.random.key(0)})
    assert not any(x.aval.weak_type for x in (tree["weak"], tree["number"]))
    assert jnp.issubdtype(tree["key"].dtype, jax.dtypes.prng_key)
