"""Losses against torch's formulas in float64 numpy, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import losses
from funcdl.losses import Mean

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 4)) * 3
LABELS = RNG.integers(0, 4, 5).astype(np.int32)


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_cross_entropy_is_minus_the_log_probability(x64):
    expected = -log_softmax(LOGITS)[np.arange(5), LABELS].mean()
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS)), expected, rtol=1e-12
    )


def test_sigmoid_cross_entropy_is_that_of_two_classes(x64):
    z, t = LOGITS[0], np.array([0.0, 1.0, 0.3, 1.0])
    p = 1 / (1 + np.exp(-z))
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    found = losses.sigmoid_cross_entropy(jnp.asarray(z), jnp.asarray(t))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_huber_is_quadratic_inside_and_linear_outside(x64):
    e = np.linspace(-3, 3, 13)
    expected = np.where(np.abs(e) <= 0.7, e**2 / 2, 0.7 * (np.abs(e) - 0.35)).mean()
    found = losses.huber(jnp.asarray(e), jnp.zeros(13), delta=0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cross_entropy_and_its_derivatives_are_finite_at_any_scale():
    f = lambda z: losses.softmax_cross_entropy(z, jnp.asarray(LABELS))
    values = jax.jit(lambda z: (f(z), jax.grad(f)(z), jax.hessian(f)(z)))
    for scale in (1e-30, 1.0, 1e4):
        for value in values(jnp.asarray(LOGITS * scale, jnp.float32)):
            assert jnp.isfinite(value).all()


@pytest.mark.parametrize(
    "f",
    [
        lambda z: losses.softmax_cross_entropy(z, jnp.asarray(LABELS)),
        lambda z: losses.sigmoid_cross_entropy(z, jnp.full((5, 4), 0.25)),
        lambda z: losses.squared_error(z, jnp.ones((5, 4))),
        lambda z: losses.huber(z, jnp.ones((5, 4))),
        lambda z: losses.absolute_error(z, jnp.ones((5, 4))),
        lambda z: (
            losses.masked_softmax_cross_entropy(z, jnp.asarray(LABELS), jnp.arange(5.0)).total
        ),
    ],
)
def test_derivatives_are_right_to_second_order(f, x64):
    cases.check_second(f, (LOGITS,))


def test_half_precision_is_summed_in_single():
    logits, labels = jnp.zeros((4096, 3), jnp.bfloat16), jnp.zeros(4096, jnp.int32)
    assert losses.softmax_cross_entropy(logits, labels).dtype == jnp.float32
    assert losses.squared_error(jnp.ones(4096, jnp.bfloat16), jnp.zeros(4096, jnp.bfloat16)) == 1


def test_a_traced_label_out_of_range_gives_nan_never_a_number():
    f = jax.jit(losses.softmax_cross_entropy)
    g = jax.jit(losses.accuracy)
    for label in (-1, 4):
        labels = jnp.asarray([0, 1, label, 2, 3])
        assert jnp.isnan(f(jnp.asarray(LOGITS), labels))
        assert jnp.isnan(g(jnp.asarray(LOGITS), labels))


def test_accuracy_counts_the_first_of_equal_logits_and_not_nan():
    assert losses.accuracy(jnp.zeros((2, 3)), jnp.asarray([0, 1])) == 0.5
    assert jnp.isnan(losses.accuracy(jnp.full((1, 3), jnp.nan), jnp.asarray([0])))


def test_padding_adds_nothing_and_the_split_does_not_matter():
    z = jnp.asarray(RNG.normal(size=(4, 6, 3)), jnp.float32)
    labels = jnp.asarray(RNG.integers(0, 3, (4, 6)))
    mask = jnp.asarray(RNG.random((4, 6)) < 0.6).at[0].set(False)
    padded = jnp.where(mask, labels, -1)
    for f in (losses.masked_softmax_cross_entropy, losses.masked_accuracy):
        whole = f(z, padded, mask)
        parts = [f(z[i : i + 2], padded[i : i + 2], mask[i : i + 2]) for i in (0, 2)]
        np.testing.assert_allclose(sum(p.total for p in parts), whole.total, rtol=1e-6)
        assert sum(p.weight for p in parts) == whole.weight == mask.sum()
    kept = np.asarray(mask)
    flat = losses.softmax_cross_entropy(z[kept], labels[kept])
    loss = losses.masked_softmax_cross_entropy(z, padded, mask)
    assert isinstance(loss, Mean)
    np.testing.assert_allclose(loss.total / loss.weight, flat, rtol=1e-6)


def test_gradients_of_padding_are_zero_even_where_its_logits_are_not_finite():
    z = jnp.zeros((2, 3)).at[1].set(jnp.inf)
    mask = jnp.asarray([True, False])
    f = lambda z: losses.masked_softmax_cross_entropy(z, jnp.asarray([0, -1]), mask).total
    assert jnp.isfinite(f(z))
    np.testing.assert_array_equal(jax.grad(f)(z)[1], jnp.zeros(3))


def test_vmap_gives_the_loss_of_each_example():
    each = jax.vmap(losses.softmax_cross_entropy)(
        jnp.asarray(LOGITS)[:, None], jnp.asarray(LABELS)[:, None]
    )
    np.testing.assert_allclose(
        each.mean(),
        losses.softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS)),
        rtol=1e-6,
    )


def test_the_derivative_of_the_absolute_error_at_the_kink_is_zero():
    f = lambda x: losses.absolute_error(x, jnp.zeros(2))
    np.testing.assert_array_equal(jax.grad(f)(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_array_equal(jax.hessian(f)(jnp.zeros(2)), jnp.zeros((2, 2)))


@pytest.mark.parametrize("bad", [3.0, -1.0, np.nan])
def test_targets_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(ValueError, match=r"targets have minimum .*probabilities"):
        losses.sigmoid_cross_entropy(jnp.zeros(2), jnp.asarray([0.5, bad]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite weights"):
        losses.masked_accuracy(jnp.zeros((2, 3)), jnp.asarray([0, 1]), jnp.asarray([1.0, bad]))
