"""Statistics do not depend on the split, equal their definitions, and their errors cover."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr

from funcdl import data, losses, nn, train
from funcdl.per_example import ExamplesInteractError

RNG = np.random.default_rng(0)
N = 61
LABELS = RNG.integers(0, 2, N)
SCORES = np.round(RNG.normal(size=N) + LABELS, 1).astype(np.float32)  # with ties
CLASSES = RNG.integers(0, 4, N)
LOGITS = (RNG.normal(size=(N, 4)) + 2 * np.eye(4)[CLASSES]).astype(np.float32)
TARGETS = RNG.normal(size=N).astype(np.float32)
PREDICTIONS = (TARGETS + 0.5 * RNG.normal(size=N)).astype(np.float32)
TOKENS = RNG.integers(0, 4, (N, 5))
SENTENCES = RNG.normal(size=(N, 5, 4)).astype(np.float32)
WEIGHTS = RNG.integers(0, 3, N).astype(np.float32)  # as repetitions of examples


def auc(scores, labels):
    if scores.ndim == 2:
        scores = scores[:, 1] - scores[:, 0]
    pairs = itertools.product(scores[labels == 1], scores[labels == 0])
    return np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])


def by_class(outputs, labels, score):
    predicted = outputs.argmax(1) if outputs.ndim == 2 else (outputs > 0).astype(int)
    c = outputs.shape[1] if outputs.ndim == 2 else 2
    found = []
    for k in range(c) if c > 2 else [1]:
        hits = np.sum((predicted == k) & (labels == k))
        if c == 2 or (predicted == k).any() or (labels == k).any():
            found.append(score(hits, np.sum(predicted == k), np.sum(labels == k)))
    return np.mean(found)


def precision(outputs, labels):
    return by_class(outputs, labels, lambda hits, predicted, actual: hits / max(predicted, 1))


def recall(outputs, labels):
    return by_class(outputs, labels, lambda hits, predicted, actual: hits / max(actual, 1))


def f1(outputs, labels):
    return by_class(outputs, labels, lambda hits, p, actual: 2 * hits / max(p + actual, 1))


def r2(outputs, targets):
    residual = ((targets - outputs) ** 2).sum(axis=0)
    return np.mean(1 - residual / ((targets - targets.mean(axis=0)) ** 2).sum(axis=0))


def log_softmax(z):
    z = z.astype(float)
    return (
        z
        - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - z.max(-1)[..., None]
    )


def perplexity(logits, labels):
    return np.exp(-np.mean(np.take_along_axis(log_softmax(logits), labels[..., None], -1)))


def calibration(logits, labels):
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], 1)
    confidence = np.exp(log_softmax(logits).max(1))
    correct = logits.argmax(1) == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return error


BINARY, MANY = (SCORES, LABELS), (LOGITS, CLASSES)
PAIR = np.stack([-SCORES / 2, SCORES / 2], 1), LABELS
CASES = {
    "auc": (train.auc, auc, BINARY),
    "auc of two logits": (train.auc, auc, PAIR),
    "precision": (train.precision, precision, BINARY),
    "precision of classes": (train.precision, precision, MANY),
    "recall": (train.recall, recall, BINARY),
    "recall of two logits": (train.recall, recall, PAIR),
    "recall of classes": (train.recall, recall, MANY),
    "f1": (train.f1, f1, BINARY),
    "f1 of classes": (train.f1, f1, MANY),
    "r2": (train.r2, r2, (PREDICTIONS, TARGETS)),
    "r2 far from 0": (train.r2, r2, (PREDICTIONS + 1024, TARGETS + 1024)),
    "r2 of tiny numbers": (train.r2, r2, (PREDICTIONS * 2.0**-90, TARGETS * 2.0**-90)),
    "r2 of columns": (train.r2, r2, (LOGITS[:, :2], LOGITS[:, 2:])),
    "perplexity": (train.perplexity, perplexity, (SENTENCES, TOKENS)),
    "perplexity of classes": (train.perplexity, perplexity, MANY),
    "calibration": (train.expected_calibration_error, calibration, MANY),
    "calibration of one logit": (train.expected_calibration_error, calibration, BINARY),
}
MODEL = nn.Model(lambda key, x: nn.Variables({}, {}), lambda p, s, x, key=None: (x, s))
EMPTY = nn.Variables({}, {})


def objective_of(statistic):
    loss = lambda outputs, *targets: jnp.mean(outputs)
    return train.supervised(MODEL, loss, {"score": statistic})


def wide(outputs, targets):
    is_float = np.issubdtype(targets.dtype, np.floating)
    return outputs.astype(float), targets.astype(float) if is_float else targets


@pytest.mark.parametrize("name", CASES)
def test_a_statistic_equals_its_definition_and_does_not_depend_on_the_split(name):
    statistic, definition, (outputs, targets) = CASES[name]
    expected = definition(*wide(outputs, targets))
    whole = jax.jit(statistic)(outputs, targets)
    np.testing.assert_allclose(whole.value, expected, rtol=2e-4 if "far" in name else 1e-5)
    found = train.evaluate(objective_of(statistic), EMPTY, data.Batches((outputs, targets), 17))
    np.testing.assert_allclose(found["score"].value, whole.value, rtol=1e-5)
    np.testing.assert_allclose(found["score"].stderr, whole.stderr, rtol=1e-4)
    assert found["score"].stderr > 0


@pytest.mark.parametrize("name", CASES)
def test_a_weight_counts_as_repetitions_and_a_weight_of_0_as_nothing(name):
    statistic, definition, (outputs, targets) = CASES[name]
    again = np.repeat(np.arange(N), WEIGHTS.astype(int))
    expected = definition(*wide(outputs[again], targets[again]))
    shape = targets.shape if "perplexity" in name else (N,)
    weights = np.broadcast_to(WEIGHTS.reshape(N, *(1,) * (len(shape) - 1)), shape)
    spoiled = np.where((WEIGHTS == 0).reshape(N, *(1,) * (outputs.ndim - 1)), np.nan, outputs)
    found = jax.jit(statistic)(outputs, targets, weights)
    np.testing.assert_allclose(found.value, expected, rtol=2e-4 if "far" in name else 1e-5)
    if name not in ("calibration", "calibration of one logit", "auc", "auc of two logits"):
        np.testing.assert_allclose(
            jax.jit(statistic)(spoiled.astype(np.float32), targets, weights).value,
            expected,
            rtol=2e-4,
        )


def influence(definition, outputs, targets):
    """The infinitesimal jackknife by leaving out one example at a time, in float64."""
    n = len(outputs)
    each = [definition(np.delete(outputs, i, 0), np.delete(targets, i, 0)) for i in range(n)]
    return np.sqrt((n - 1) / n * ((np.asarray(each) - np.mean(each)) ** 2).sum())


@pytest.mark.parametrize("name", [name for name in CASES if "calibration" not in name])
def test_a_standard_error_is_that_of_the_jackknife(name):
    statistic, definition, (outputs, targets) = CASES[name]
    expected = influence(definition, *wide(outputs, targets))
    found = jax.jit(statistic)(outputs, targets).stderr
    np.testing.assert_allclose(found, expected, rtol=4 / N)  # the two agree to the order of 1 / n


def test_the_standard_errors_cover():
    """Of 400 data sets, 95 % contain the value of the population within 1.96 errors."""

    @jax.vmap
    def draw(key):
        key_label, key_noise = jax.random.split(key)
        labels = jax.random.bernoulli(key_label, 0.4, (400,)).astype(jnp.int32)
        scores = jax.random.normal(key_noise, (400,)) + labels
        return [f(scores, labels) for f in (train.auc, train.recall, train.precision, train.f1)]

    found = jax.jit(draw)(jax.random.split(jax.random.key(0), 400))
    hits, false = float(ndtr(1.0)), 0.5
    exact = hits * 0.4 / (hits * 0.4 + false * 0.6)
    truths = float(ndtr(2**-0.5)), hits, exact, 2 * hits * exact / (hits + exact)
    for estimate, truth in zip(found, truths):
        covered = np.abs(estimate.value - truth) <= 1.96 * estimate.stderr
        assert 0.92 <= covered.mean() <= 0.98


UNDEFINED = {
    "auc of one class": (train.auc, SCORES, np.ones(N, int)),
    "precision without a prediction": (train.precision, -np.ones(N, np.float32), LABELS),
    "recall without an example": (train.recall, SCORES, np.zeros(N, int)),
    "r2 of a constant": (train.r2, PREDICTIONS, np.ones(N, np.float32)),
    "auc of a third class": (train.auc, SCORES, LABELS + 1),
    "f1 of a class too many": (train.f1, LOGITS, CLASSES + 1),
    "perplexity of -1": (train.perplexity, LOGITS, CLASSES - 1),
    "calibration of -1": (train.expected_calibration_error, LOGITS, CLASSES - 1),
    "auc of nan": (train.auc, np.where(np.arange(N) == 3, np.nan, SCORES), LABELS),
    "recall of nan": (train.recall, np.where(np.arange(N) == 3, np.nan, SCORES), LABELS),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_is_not_defined_is_nan(name):
    statistic, outputs, targets = UNDEFINED[name]
    assert np.isnan(jax.jit(statistic)(outputs.astype(np.float32), targets).value)


def test_one_example_has_no_standard_error():
    for statistic, outputs, targets in (
        (train.f1, LOGITS, CLASSES),
        (train.perplexity, LOGITS, CLASSES),
    ):
        assert np.isnan(statistic(outputs[:1], targets[:1]).stderr)


def test_training_reports_means_only_and_validation_all():
    import optax
    from flax import linen

    model = nn.from_linen(linen.Dense(4))
    objective = train.supervised(
        model, losses.softmax_cross_entropy, {"accuracy": losses.accuracy, "f1": train.f1}
    )
    program = train.program(objective, optax.sgd(0.1))
    batches = data.Batches((LOGITS, CLASSES.astype(np.int32)), 16)
    run = program.init(jax.random.key(0), batches.form)
    validate = lambda run: train.evaluate(objective, run.variables, batches)
    run, history = train.fit(program, run, batches, steps=4, validate=validate)
    assert set(history.metrics) == {"loss", "accuracy"}
    (_, values) = history.validation[0]
    assert set(values) == {"loss", "accuracy", "f1"}
    outputs, _ = model.apply(*run.variables, LOGITS)
    np.testing.assert_allclose(values["f1"].value, f1(np.asarray(outputs), CLASSES), rtol=1e-5)
    assert set(train.per_example(objective, run.variables, batches)) == {"loss", "accuracy"}


def contrastive(outputs, labels):
    return -jax.nn.log_softmax(outputs @ outputs.T)[
        jnp.arange(len(labels)), jnp.arange(len(labels))
    ].mean()


COUPLED = {
    "contrastive": contrastive,
    "sum": lambda z, y: losses.softmax_cross_entropy(z, y) * len(y),
    "perplexity": lambda z, y: jnp.exp(losses.softmax_cross_entropy(z, y)),
    "r2": lambda z, y: 1 - ((y - z[:, 0]) ** 2).sum() / ((y - y.mean()) ** 2).sum(),
    "recall": lambda z, y: ((z.argmax(1) == 1) & (y == 1)).sum() / (y == 1).sum(),
    "f1": lambda z, y: train.f1(z, y).value,
    "batch norm": lambda z, y: losses.softmax_cross_entropy(
        (z - z.mean(0, keepdims=True)) / z.std(0, keepdims=True), y
    ),
    "largest": lambda z, y: z.max(),
    "median": lambda z, y: jnp.median(z),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("place", ["loss", "metric"])
def test_a_metric_that_couples_examples_is_rejected_by_evaluate(name, place):
    mean = losses.softmax_cross_entropy
    objective = (
        train.supervised(MODEL, COUPLED[name])
        if place == "loss"
        else train.supervised(MODEL, mean, {"odd": COUPLED[name]})
    )
    word = "'loss'" if place == "loss" else "'odd'"
    with pytest.raises(ExamplesInteractError, match=rf"{word} of 8 examples .*train\.Statistic"):
        train.evaluate(objective, EMPTY, (LOGITS, CLASSES.astype(np.int32)))


def residual(z, y):
    return jnp.mean((z[:, 0] - y) ** 2)


MEANS = {
    "cross-entropy": (losses.softmax_cross_entropy, LOGITS, CLASSES),
    "confident": (losses.softmax_cross_entropy, LOGITS * 30, CLASSES),
    "accuracy": (losses.accuracy, LOGITS, CLASSES),
    "interpolating": (residual, (TARGETS * (1 + 1e-6))[:, None], TARGETS),
    "exact": (residual, TARGETS[:, None], TARGETS),
    "tiny": (residual, PREDICTIONS[:, None] * 1e-12, TARGETS * 1e-12),
    "half precision": (
        lambda z, y: losses.softmax_cross_entropy(z.astype(jnp.bfloat16), y),
        LOGITS,
        CLASSES,
    ),
    "diverged": (losses.softmax_cross_entropy, LOGITS, CLASSES),
    "masked": (
        lambda z, y: losses.Mean((z[:, 0] * (y == 0)).sum(), (y == 0).sum().astype(float)),
        LOGITS,
        CLASSES,
    ),
    "regularized": (lambda z, y: losses.softmax_cross_entropy(z, y) + 0.5, LOGITS, CLASSES),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_over_examples_is_never_rejected(name):
    loss, x, y = MEANS[name]
    y = y if y.dtype == np.float32 else y.astype(np.int32)
    if name == "diverged":  # data is finite, the loss is not
        loss, x = (lambda z, y: losses.softmax_cross_entropy(z * jnp.inf, y)), LOGITS
    train.evaluate(train.supervised(MODEL, loss), EMPTY, (x, y))
