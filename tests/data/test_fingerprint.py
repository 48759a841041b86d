"""A fingerprint changes with what an object does, and with nothing else."""

import functools

import numpy as np
import pytest

from funcdl.data import _fingerprint


def above(least):
    return lambda x: x > least


def scaled(x, by):
    return by * x


DIFFERENT = {
    "a captured value": (above(1), above(2)),
    "code": (lambda x: x + 1, lambda x: x - 1),
    "a constant": (lambda x: x + 1, lambda x: x + 2),
    "an argument": (functools.partial(scaled, by=1), functools.partial(scaled, by=2)),
    "numbers": (np.arange(3), np.arange(3)[::-1].copy()),
    "a dtype": (np.arange(3), np.arange(3.0)),
    "a shape": (np.zeros(4), np.zeros((2, 2))),
    "a key": ({"a": 1}, {"b": 1}),
    "an order": ([1, 2], [2, 1]),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_change_shows(name):
    before, after = DIFFERENT[name]
    assert _fingerprint.of_pipeline(before) != _fingerprint.of_pipeline(after)


def test_the_same_again_has_the_same_fingerprint():
    for make in (
        lambda: above(1),
        lambda: functools.partial(scaled, by=np.ones(2)),
        lambda: {3, 1},
    ):
        assert _fingerprint.of_pipeline(make()) == _fingerprint.of_pipeline(make())


def test_a_batch_is_its_values_dtypes_and_tree():
    batch = {"x": np.arange(3), "y": np.ones(2)}
    same = {"x": np.arange(3), "y": np.ones(2)}
    assert _fingerprint.of_batch(batch) == _fingerprint.of_batch(same)
    for other in (
        {"x": np.arange(3), "z": np.ones(2)},
        {"x": np.arange(3.0), "y": np.ones(2)},
        {"x": np.asarray([0, 1, 3]), "y": np.ones(2)},
        {"x": np.arange(3)[None], "y": np.ones(2)},
    ):
        assert _fingerprint.of_batch(batch) != _fingerprint.of_batch(other)
