"""No mean depends on how the examples were cut into batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcdl import _batching, _mean, _tree
from funcdl.data import Batches
from funcdl.losses import Mean

X = jnp.asarray([1.0, 5.0, -2.0, 0.5, 3.0, 7.0, -4.0])
WEIGHTS = jnp.asarray([1.0, 0.0, 2.0, 1.0, 0.5, 0.0, 3.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=4, unique=True))
def test_sums_of_means_do_not_depend_on_the_split(cuts):
    def whole(x, w):
        return _tree.add(_mean.weighted(x.mean(), x), Mean((w * x).sum(), w.sum()))

    parts = [
        whole(x, w) for x, w in zip(np.split(X, sorted(cuts)), np.split(WEIGHTS, sorted(cuts)))
    ]
    total = parts[0]
    for part in parts[1:]:
        total = _tree.add(total, part)
    expected = (X.sum() + WEIGHTS @ X) / (7 + WEIGHTS.sum())
    np.testing.assert_allclose(_mean.value(total), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_totals_over_batches_are_those_of_one_batch(size):
    batches = Batches({"x": X, "w": WEIGHTS}, size, key=jax.random.key(0))

    def f(batch):
        return Mean(batch["w"] @ batch["x"], batch["w"].sum())

    for data in (batches, batches.arrays):
        np.testing.assert_allclose(
            _mean.value(_batching.total(f, data)), WEIGHTS @ X / WEIGHTS.sum()
        )
        np.testing.assert_allclose(_batching.each(lambda b: 2 * b["x"], data), 2 * X)


def test_the_forms_of_batches_are_the_whole_ones_and_the_tail():
    def shapes(data):
        return [form.shape for form in _batching.forms(data)]

    assert shapes(X) == [(7,)]
    assert sorted(set(shapes(Batches(X, 3)))) == [(1,), (3,)]
    assert set(shapes(Batches(X, 7))) == {(7,)}
    tenfold = Batches(X, 4, transform=lambda x: jnp.repeat(x, 10))
    assert sorted(set(shapes(tenfold))) == [(30,), (40,)]


def test_a_mean_has_its_weight_and_a_scalar_the_number_of_examples():
    mean = Mean(jnp.asarray(3.0), jnp.asarray(2.0))
    assert _mean.weighted(mean, X) is mean
    assert _mean.weighted(jnp.asarray(2.0), {"x": X, "n": jnp.asarray(1)}) == (14.0, 7.0)
    assert _mean.weighted(jnp.asarray(2.0), ()) == (2.0, 1.0)
    low = _mean.weighted(jnp.asarray(1.0, jnp.bfloat16), jnp.zeros(1001))
    assert low.weight == low.total == 1001  # bfloat16 has no 1001
    assert jnp.isnan(_mean.value(Mean(jnp.asarray(0.0), jnp.asarray(0.0))))
    assert _mean.value(jnp.asarray(2.0)) == 2


def test_what_is_neither_scalar_nor_mean_is_refused():
    with pytest.raises(ValueError, match=r"shape \(7,\); expected a scalar mean over the examples"):
        _mean.weighted(X, X)
    with pytest.raises(ValueError, match=r"different numbers of examples: \{'x': 7, 'y': 3\}"):
        _batching.examples({"x": X, "y": X[:3]})
