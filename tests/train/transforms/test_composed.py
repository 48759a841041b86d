"""Transformations in any order that makes sense: one form of run, one trace, the same bits."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import cases
from funcdl import data, train
from stack import GRADIENTS, OBJECTIVES, PLAIN, PROGRAMS, X, Y, optimizer, stack
from stack import batches as stack_batches

LANES = "ensemble", "sweep"


def form(program) -> None:
    """A step returns the run it got, as far as shapes tell."""
    batches = data.Batches((X, Y), 8)
    make = lambda key: program.init(key, batches.form, {"rate": 0.1})
    run = jax.eval_shape(make, jax.random.key(0))
    after, metrics = jax.eval_shape(program.step, run, batches.form)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, run)
    assert {"loss", "accuracy"} <= set(metrics)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("outer", OBJECTIVES)
@pytest.mark.parametrize("inner", OBJECTIVES)
def test_objectives_and_gradients_compose(inner, outer, gradient):
    objective = OBJECTIVES[outer](OBJECTIVES[inner](PLAIN))
    form(train.program(objective, optimizer, GRADIENTS[gradient]))


@pytest.mark.parametrize(("inner", "outer"), list(itertools.permutations(PROGRAMS, 2)), ids=str)
def test_programs_compose(inner, outer):
    program = PROGRAMS[outer](PROGRAMS[inner](train.program(PLAIN, optimizer)))
    if outer == "recorded" and inner in LANES:
        with pytest.raises(ValueError, match="monitor its members"):
            form(program)
    else:
        form(program)


@pytest.fixture(scope="module")
def whole():
    program, batches = stack(), stack_batches()
    run = program.init(jax.random.key(0), batches.form)
    return program, batches, run, train.fit(program, run, batches, steps=20, chunk=7)


def same_bits(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_a_whole_stack_resumes_to_the_same_bits(whole, tmp_path):
    program, batches, run, (straight, _) = whole
    half, _ = train.fit(program, run, batches, steps=11, chunk=7)
    train.save(tmp_path, half)
    restored = train.restore(tmp_path, run)
    again, _ = train.fit(program, restored, batches, steps=20, chunk=7)
    same_bits(again, straight)


@pytest.mark.parametrize("chunk", cases.often([1, 77], [77]))
def test_chunks_of_a_whole_stack_change_no_bit(whole, chunk):
    program, batches, run, (straight, history) = whole
    again, found = train.fit(program, run, batches, steps=20, chunk=chunk)
    same_bits(again, straight)
    np.testing.assert_array_equal(found.metrics["loss"], history.metrics["loss"])


@pytest.mark.slow
def test_a_whole_stack_that_is_killed_ends_with_the_same_bits(tmp_path):
    """Three kills, at random, of a process that trains with everything; then to the end."""
    script = Path(__file__).parents[2] / "stack.py"
    rng, killed = np.random.default_rng(0), 0
    undisturbed, steps = tmp_path / "undisturbed", 60
    subprocess.run([sys.executable, script, undisturbed, str(steps)], check=True, timeout=300)
    for _ in range(3):
        before = train.latest(tmp_path / "run") or 0
        child = subprocess.Popen([sys.executable, script, tmp_path / "run", str(steps)])
        deadline = time.monotonic() + 120
        while (train.latest(tmp_path / "run") or 0) <= before + 4 and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 0.3))
        killed += child.poll() is None
        child.kill()
        child.wait()
    assert killed == 3
    subprocess.run([sys.executable, script, tmp_path / "run", str(steps)], check=True, timeout=300)
    like = stack().init(jax.random.key(0), stack_batches().form)
    same_bits(train.restore(tmp_path / "run", like), train.restore(undisturbed, like))
