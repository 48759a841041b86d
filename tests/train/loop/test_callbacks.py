"""What a callback writes for other programs is what they read."""

import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import data, train


def scalars(path):
    """The scalars of an event file: each record is length, its checksum, data, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    raw, at, found = path.read_bytes(), 0, {}
    while at < len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        event = Event.FromString(raw[at + 12 : at + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        at += 16 + length
    return found


def test_tensorboard_reads_losses_and_validation_by_the_steps_of_the_optimizer(tmp_path):
    line = train.objective(lambda key, x: jnp.ones(2), lambda w, x: ((x @ w) ** 2).mean())
    sgd = train.program(line, optax.sgd(0.1))
    batches = data.Batches(np.eye(2, dtype=np.float32), 2)
    callback = train.tensorboard(tmp_path / "events")
    assert not (tmp_path / "events").exists()
    _, history = train.fit(
        sgd,
        sgd.init(jax.random.key(0), batches.form),
        batches,
        steps=5,
        chunk=2,
        validate=lambda run: {"accuracy": run.step / 10},
        callbacks=[callback],
    )
    del callback  # which closes the file
    (path,) = (tmp_path / "events").iterdir()
    found = scalars(path)
    assert set(found) == {"train/loss", "validation/accuracy"}
    loss = history.metrics["loss"]
    means = [loss[:2].mean(), loss[2:4].mean(), loss[4]]
    assert [step for step, _ in found["train/loss"]] == [2, 4, 5]
    np.testing.assert_allclose([x for _, x in found["train/loss"]], means, rtol=1e-6)
    np.testing.assert_allclose(found["validation/accuracy"], [(2, 0.2), (4, 0.4), (5, 0.5)])


def test_without_tensorboardx_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(ImportError, match=r'pip install "funcdl\[tracking\]"'):
        train.tensorboard(tmp_path)
