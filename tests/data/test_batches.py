"""Batches: a pure function of the step that shows every example once an epoch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcdl import data, nn, train
from funcdl.data import Batches, DataError
from funcdl.data._batches import _divmod

SIZES = [(1437, 64), (60, 60), (7, 3), (5, 1), (1, 1), (257, 256)]


@pytest.mark.parametrize(("n", "size"), SIZES)
@pytest.mark.parametrize("keyed", [True, False])
def test_every_example_comes_once_an_epoch(n, size, keyed, key):
    batches = Batches(jnp.arange(n), size, key=key if keyed else None)
    steps = math.ceil(3 * n / size)
    order = np.concatenate(jax.lax.map(batches.at, jnp.arange(steps)))
    for epoch in range(3):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_without_a_key_the_order_is_the_stored_one():
    batches = Batches(jnp.arange(5), 2)
    assert [batches.at(i).tolist() for i in range(3)] == [[0, 1], [2, 3], [4, 0]]


def test_every_epoch_and_every_key_has_its_own_order(key):
    n = 512
    order = lambda key: np.asarray(
        jax.lax.map(Batches(jnp.arange(n), n, key=key).at, jnp.arange(3))
    )
    one, other = order(key), order(jax.random.key(1))
    for a, b in [(one[0], one[1]), (one[1], one[2]), (one[0], other[0])]:
        assert (a == b).mean() < 0.05
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


def test_the_shuffle_puts_every_example_everywhere_equally_often(key):
    n, epochs = 10, 20_000
    order = np.asarray(jax.lax.map(Batches(jnp.arange(n), n, key=key).at, jnp.arange(epochs)))
    counts = np.stack([np.bincount(order[:, place], minlength=n) for place in range(n)])
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < 81 + 5 * math.sqrt(2 * 81)  # 81 degrees of freedom, five sigma


@settings(deadline=None, max_examples=200)
@given(step=st.integers(0, 2**31 - 1), n=st.sampled_from([7, 60_000, 2**30 + 7, 2**31 - 1]))
def test_positions_do_not_overflow(step, n):
    size = min(n, 3000)
    if step * size // n >= 2**31:
        return
    epoch, place = _divmod(jnp.int32(step), size, n)
    assert (int(epoch), int(place)) == divmod(step * size, n)


def test_it_is_a_pytree_and_another_step_or_data_is_no_new_compilation(key):
    traces = []

    @jax.jit
    def first(batches, step):
        traces.append(1)
        return batches.at(step)[0]

    for x in (jnp.arange(9), jnp.arange(9) * 2):
        for step in range(3):
            first(Batches(x, 4, key=key), step)
    assert len(traces) == 1


def test_dtypes_stay_and_the_transform_sees_every_batch():
    images = np.arange(12, dtype=np.uint8).reshape(6, 2)
    batches = Batches((images,), 4, transform=halves)
    assert batches.arrays[0].dtype == jnp.uint8
    np.testing.assert_allclose(batches.at(0)[0], images[:4] / 2)
    np.testing.assert_allclose(batches.rows(4, 2)[0], images[4:] / 2)


def halves(batch):
    return jax.tree.map(lambda x: x.astype(jnp.float32) / 2, batch)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 10])
def test_totals_and_each_see_every_example_once_whatever_the_split(size, key):
    x = jnp.arange(10.0)
    batches = Batches(x, size, key=key)
    assert jax.jit(lambda b: b.total(lambda x: (x**2).sum()))(batches) == (x**2).sum()
    np.testing.assert_array_equal(batches.each(lambda x: 2 * x), 2 * x)


def test_total_traces_its_function_once_for_whole_batches_and_once_for_the_tail():
    traces = []

    def f(x):
        traces.append(x.shape)
        return x.sum()

    Batches(jnp.arange(10.0), 4).total(f)
    assert traces == [(4,), (2,)]


def test_steps_cover_the_epochs():
    assert Batches(jnp.arange(10), 4).steps(1) == 3
    assert Batches(jnp.arange(10), 5).steps(4) == 8
    assert Batches(jnp.arange(10), 5).steps(0.5) == 1


def test_vmap_over_keys_gives_each_lane_its_own_order():
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jax.vmap(lambda key: Batches(jnp.arange(50), 50, key=key).at(0))(keys)
    assert all(sorted(row) == list(range(50)) for row in rows.tolist())
    assert (rows[0] != rows[1]).any()


def test_integers_that_jax_would_cut_off_are_refused():
    with pytest.raises(DataError, match=r"int64 values from 3 to 1099511627783.*int32"):
        Batches(np.array([2**40 + 7, 3]), 2)
    assert Batches(np.array([7, 3], np.int64), 2).at(0).tolist() == [7, 3]


@pytest.mark.parametrize("step", [-1, 2**31, np.int64(2**40)])
def test_a_step_out_of_range_is_refused(step):
    with pytest.raises(ValueError, match=r"step is .*2\*\*31"):
        Batches(jnp.arange(10), 3).at(step)


def test_a_step_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="step has dtype float32"):
        Batches(jnp.arange(10), 3).at(1.5)


WIDE = {
    "wrapped labels": np.arange(6) % 3 + 2**33,
    "negative": np.asarray([-(2**31) - 1, 0, 1]),
    "unsigned": np.asarray([2**32, 1, 2], np.uint64),
    "overflow": np.asarray([1e300, 1.0, 2.0]),
    "overflow of a complex number": np.asarray([1e300j, 1.0, 2.0]),
    "underflow": np.asarray([1e-300, 2e-300, 0.0]),
}


def entries():
    """Every way by which data of the host reaches the device."""
    line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.mean(w * x.real))
    program = train.program(line, optax.sgd(0.1))
    model = nn.Model(lambda key, x: nn.Variables({}, {}), lambda p, s, x, key=None: (x, s))
    run = program.init(jax.random.key(0), jnp.ones(3))
    stream = lambda x: data.Stream(lambda step: iter([x] * (4 - step)))
    return {
        "Batches": lambda x: data.Batches(x, 1),
        "check": lambda x: data.check({"x": x}),
        "stream": lambda x: train.fit(program, run, stream(x), steps=2, chunk=1),
        "iterable": lambda x: train.fit(program, run, iter([x, x]), steps=2, chunk=2),
        "evaluate": lambda x: train.evaluate(line, run.variables, x),
        "per_example": lambda x: train.per_example(line, run.variables, x),
        "predict": lambda x: train.predict(model, ({}, {}), x),
        "hyper": lambda x: program.init(jax.random.key(0), jnp.ones(3), {"rate": x}),
    }


@pytest.mark.parametrize("entry", entries())
@pytest.mark.parametrize("name", WIDE)
def test_values_that_a_narrower_dtype_would_change_are_rejected_at_every_entry(entry, name):
    if name == "overflow of a complex number" and entry in ("evaluate", "per_example"):
        pytest.skip("a loss is real")
    enter = entries()[entry]
    with pytest.raises(ValueError, match=r"do not fit|overflow|underflow"):
        enter(WIDE[name])
    enter(np.asarray([1, 2, 3]) if WIDE[name].dtype.kind in "iu" else np.asarray([1e-300, 0.1, 2]))


def test_labels_that_do_not_fit_are_rejected():
    with pytest.raises(data.DataError, match=r"int64 values .* do not fit int32"):
        data.arrays(np.zeros((6, 1), np.float32), WIDE["wrapped labels"])
    with jax.enable_x64(True), pytest.raises(data.DataError, match="out of range"):
        data.arrays(np.zeros((6, 1), np.float32), WIDE["wrapped labels"])
