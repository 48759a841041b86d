"""A training in pieces: the sizes grow, nothing is lost, and a long compilation is announced."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import data, train
from funcdl.train._loop import pieces
from funcdl.train._loop.compiled import Chunk

PROGRAM = train.program(
    train.objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2)),
    optax.sgd(0.1),
)
BATCHES = data.Batches(jnp.arange(4.0), 2)


def start():
    return PROGRAM.init(jax.random.key(0), BATCHES.form)


def test_the_first_piece_compiles_and_the_next_ones_grow_from_one_step():
    take, run, counts = pieces.in_pieces(PROGRAM, 1000), start(), []
    for _ in range(4):
        run, done = take(run, BATCHES, 1000)
        counts.append(len(done.log["loss"]))
    assert counts[:2] == [0, 1]
    assert all(a < b <= 16 * a for a, b in itertools.pairwise(counts[1:]))
    assert run.step == sum(counts)


def test_pieces_are_joined_in_order():
    parts = [Chunk({"loss": np.arange(n)}, n < 3, 1.0 * n, 0.5) for n in (1, 2, 3)]
    whole = pieces.joined(parts)
    assert whole.log["loss"].tolist() == [0, 0, 1, 0, 1, 2]
    assert (whole.is_finite, whole.seconds, whole.compile_seconds) == (False, 6.0, 1.5)


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("silence", [0.0, 60.0])
def test_a_long_compilation_is_announced_and_a_short_one_is_not(
    length, silence, monkeypatch, capsys
):
    monkeypatch.setattr(pieces, "_SILENCE", silence)
    take, run = pieces.in_pieces(PROGRAM, length), start()
    run, _ = take(run, BATCHES, length)
    assert ("compiling the training step; Ctrl-C" in capsys.readouterr().err) == (silence == 0)
    take(run, BATCHES, length)
    assert capsys.readouterr().err == ""
