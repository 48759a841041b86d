"""Entropies of bits, labels and tables: scipy, scikit-learn, and float32 where it is in danger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.metrics import mutual_info_score

import cases
from funcdl.stats import bernoulli, categorical, joint_table
from funcdl.stats._exp_excess import excess
from funcdl.stats.bernoulli import Bernoulli
from funcdl.stats.categorical import Categorical

L, M = cases.normal(0, 6), cases.normal(1, 6)
COUNTS = np.asarray([[5, 0, 2], [1, 3, 0], [0, 0, 0], [4, 4, 1]])
HOLED = jnp.asarray([0.5, -jnp.inf, -1.0, -200.0])
FULL = jnp.asarray([0.1, 0.2, 0.3, 0.4])


def test_the_exponential_above_its_tangent_has_all_digits():
    t = np.asarray([0.0, 1e-6, -1e-3, 0.0999, -0.1001, 2.0, -30.0], np.float32)
    wide = t.astype(np.longdouble)
    exact = np.where(np.abs(wide) < 1e-2, wide**2 / 2 * (1 + wide / 3 * (1 + wide / 4)), 0)
    exact = np.where(np.abs(wide) < 1e-2, exact, np.expm1(wide) - wide)
    np.testing.assert_allclose(excess(jnp.asarray(t)), exact.astype(float), rtol=3e-6)


def test_labels_have_the_entropies_of_scipy():
    p, q = Categorical(jnp.asarray(L, jnp.float32)), Categorical(jnp.asarray(M, jnp.float32))
    a, b = scipy.special.softmax(L), scipy.special.softmax(M)
    np.testing.assert_allclose(categorical.entropy(p), scipy.stats.entropy(a), rtol=1e-6)
    np.testing.assert_allclose(categorical.kl(p, q), scipy.stats.entropy(a, b), rtol=1e-6)
    np.testing.assert_allclose(categorical.cross_entropy(p, q), -(a * np.log(b)).sum(), rtol=1e-6)


@pytest.mark.parametrize("logits", [(0.3, -1.2), (-80.0, 3.0), (5.0, 5.125)])
def test_bits_have_their_entropies_to_the_last_digit_of_a_small_probability(logits):
    p, q = (Bernoulli(jnp.asarray(l)) for l in logits)
    (p_0, p_1), (surprise, other) = bits(logits[0])[0], (bits(l)[1] for l in logits)
    np.testing.assert_allclose(bernoulli.entropy(p), p_0 * surprise[0] + p_1 * surprise[1], 1e-5)
    expected = p_0 * other[0] + p_1 * other[1]
    np.testing.assert_allclose(bernoulli.cross_entropy(p, q), expected, 1e-6)
    expected = p_0 * (other[0] - surprise[0]) + p_1 * (other[1] - surprise[1])
    np.testing.assert_allclose(bernoulli.kl(p, q), expected, 1e-5)


def bits(logit):
    """Return probabilities and surprises of both bits in more than float64."""
    odds = np.exp(np.asarray([logit, -logit], np.longdouble))
    return (1 / (1 + odds)).astype(float), np.log1p(odds).astype(float)


def test_what_is_impossible_costs_nothing_and_what_q_excludes_costs_infinity():
    p, q = Categorical(HOLED), Categorical(FULL)
    for measure in (categorical.kl, categorical.cross_entropy):
        assert jnp.isfinite(measure(p, q))
        assert measure(q, p) == jnp.inf
        gradient = jax.jit(jax.grad(measure, (0, 1)))
        for pair in ((p, q), (q, p), (p, p)):
            assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(*pair)))
    assert categorical.kl(p, p) == 0
    bend = jax.jit(jax.hessian(lambda l: categorical.entropy(Categorical(l))))(HOLED)
    assert jnp.isfinite(bend).all()
    certain, open_ = Bernoulli(jnp.asarray(-jnp.inf)), Bernoulli(jnp.asarray(0.7))
    assert bernoulli.entropy(certain) == 0
    assert bernoulli.kl(open_, certain) == jnp.inf
    np.testing.assert_allclose(bernoulli.kl(certain, open_), np.logaddexp(0, 0.7), rtol=1e-6)


def test_tables_have_the_information_of_scikit_learn():
    log_joint = jnp.log(jnp.asarray(COUNTS, jnp.float32))
    p = COUNTS / COUNTS.sum()
    got = joint_table.mutual_information(log_joint)
    np.testing.assert_allclose(got, mutual_info_score(None, None, contingency=COUNTS), rtol=1e-5)
    joint = scipy.stats.entropy(p.ravel())
    np.testing.assert_allclose(joint_table.joint_entropy(log_joint), joint, rtol=1e-6)
    given = joint - scipy.stats.entropy(p.sum(axis=1))
    np.testing.assert_allclose(joint_table.conditional_entropy(log_joint), given, rtol=1e-5)
    # I(A; B) = H(A) - H(A | B)
    other = scipy.stats.entropy(p.sum(axis=1)) - joint_table.conditional_entropy(log_joint.T)
    np.testing.assert_allclose(other, got, rtol=1e-5)


def test_impossible_rows_of_a_table_spoil_no_gradient():
    log_joint = jnp.log(jnp.asarray(COUNTS, jnp.float32))
    measures = {name: getattr(joint_table, name) for name in joint_table.__all__}
    slopes = jax.jit(lambda x: {name: jax.grad(f)(x) for name, f in measures.items()})(log_joint)
    for name, slope in slopes.items():
        assert jnp.isfinite(slope).all(), name
    p = COUNTS / COUNTS.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        pointwise = np.log(p / (p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)))
        expected = np.where(p > 0, p * (pointwise - np.nansum(p * pointwise)), 0)
    np.testing.assert_allclose(slopes["mutual_information"], expected, atol=1e-6)


def test_independent_labels_tell_nothing_of_each_other():
    a, b = (jax.nn.log_softmax(jnp.asarray(x, jnp.float32)) for x in (L, M))
    got = joint_table.mutual_information(a[:, None] + b[None])
    assert 0 <= got < 1e-12


@pytest.mark.usefixtures("x64")
def test_information_of_labels_is_differentiable_twice_in_both_modes():
    def measures(logits, others):
        p, q = Categorical(logits), Categorical(others)
        bits = Bernoulli(logits[0]), Bernoulli(others[0])
        joint = logits[:, None] * others[None]
        return (
            categorical.entropy(p) + categorical.kl(p, q) + categorical.cross_entropy(p, q),
            bernoulli.entropy(bits[0]) + bernoulli.kl(*bits) + bernoulli.cross_entropy(*bits),
            joint_table.mutual_information(joint) + joint_table.conditional_entropy(joint),
        )

    cases.check_second(measures, (L[:3], M[:3]))


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_float32_keeps_the_divergence_of_labels_nearly_the_same(distance):
    a = np.asarray(cases.normal(2, 500), np.float32)
    b = np.asarray(a + distance * cases.normal(3, 500), np.float32)
    p, q = (scipy.special.softmax(x.astype(np.longdouble)) for x in (a, b))
    exact = float((p * np.log(p / q) - p + q).sum())
    got = categorical.kl(Categorical(jnp.asarray(a)), Categorical(jnp.asarray(b)))
    # logits have an error of eps, and the divergence is of the order distance squared
    np.testing.assert_allclose(got, exact, rtol=1e-6 + 3e-7 / distance)
    assert got >= 0


def test_a_batch_of_divergences_is_what_its_lanes_are():
    p = Categorical(jnp.stack([HOLED, FULL, jnp.zeros(4)]))
    got = jax.jit(jax.vmap(categorical.kl, (0, None)))(p, Categorical(HOLED))
    assert got[1] == jnp.inf
    assert got[0] == 0
    joint = jnp.stack(
        [jnp.zeros((2, 3)), jnp.asarray([[0.0, -jnp.inf, 1.0], [-jnp.inf, 2.0, 0.0]])]
    )
    for name in joint_table.__all__:
        measure = getattr(joint_table, name)
        got = jax.jit(jax.vmap(measure))(joint)
        np.testing.assert_allclose(got, [measure(one) for one in joint], rtol=1e-6, atol=1e-7)
