"""The record is what one measures by hand, and ends at the first step that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import data, train

X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
BATCHES = data.Batches(X, 8, key=jax.random.key(3))
START = {"first": jnp.ones((6, 3)), "second": {"w": jnp.ones(3), "b": jnp.zeros(())}}


def start(key, batch):
    """The same weights for every key."""
    return jax.tree.map(jnp.copy, START)


def value(params, x):
    y = jnp.tanh(x @ params["first"]) @ params["second"]["w"] + params["second"]["b"]
    return ((y - 1) ** 2).mean()


LINE = train.objective(start, value)
PLAIN = train.program(LINE, optax.adam(1e-2))
RECORDED = train.flight_recorder(PLAIN, length=8)


def fit(program, steps, **settings):
    run = program.init(jax.random.key(0), BATCHES.form)
    return train.fit(program, run, BATCHES, steps=steps, **({"chunk": 5} | settings))


@pytest.fixture(scope="module")
def flown():
    return fit(RECORDED, 21)


def length(x):
    return np.sqrt(np.square(np.asarray(x, float)).sum())


def test_the_record_is_what_one_measures_by_hand(flown):
    run, step, at = PLAIN.init(jax.random.key(0), BATCHES.form), jax.jit(PLAIN.step), {}
    for i in range(21):
        new, metrics = step(run, BATCHES.at(i))
        changes = jax.tree.map(jnp.subtract, new.params, run.params)
        at[i + 1] = metrics["loss"], new.params, changes
        run = new
    record = train.flight_record(flown[0])
    assert record.steps.tolist() == list(range(14, 22))
    assert record.broken is None
    assert record.suspects == []
    assert list(record.params) == ["first", "second/b", "second/w"]
    loss, params, changes = zip(*(at[step] for step in record.steps))
    np.testing.assert_allclose(record.loss, loss, rtol=1e-5)
    for name, leaf in [("first", lambda p: p["first"]), ("second/b", lambda p: p["second"]["b"])]:
        found = [length(leaf(p)) for p in params]
        np.testing.assert_allclose(record.params[name], found, rtol=1e-5)
        found = [length(leaf(c)) for c in changes]
        np.testing.assert_allclose(record.changes[name], found, rtol=1e-4)


def test_the_training_is_the_one_that_is_not_recorded(flown):
    plain, history = fit(PLAIN, 21)
    np.testing.assert_allclose(flown[1].metrics["loss"], history.metrics["loss"], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(flown[0].params), jax.tree.leaves(plain.params)):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_short_run_has_a_short_record_and_a_resumed_one_the_same(flown):
    run, _ = fit(RECORDED, 3)
    assert train.flight_record(run).steps.tolist() == [1, 2, 3]
    run, _ = train.fit(RECORDED, run, BATCHES, steps=21, chunk=5)
    for a, b in zip(train.flight_record(run)[:2], train.flight_record(flown[0])[:2]):
        np.testing.assert_array_equal(a, b)


def poison(at: int, where: str):
    """NaN in the gradient of one layer at one step; its loss stays finite until the next."""

    def update(updates, state, params=None, **extra):
        hurt = lambda x: jnp.where(state == at - 1, jnp.nan, x)
        (mask,) = (updates[where],)
        return updates | {where: jax.tree.map(hurt, mask)}, state + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), update)


def poisoned(at, where="second", **settings):
    optimizer = optax.chain(optax.sgd(1e-2), poison(at, where))
    return train.flight_recorder(train.program(LINE, optimizer), **settings)


def test_the_record_ends_at_the_first_step_that_is_not_finite_and_fit_names_its_layers():
    with pytest.raises(train.NonFiniteError) as failed:
        fit(poisoned(7, length=4), 40, chunk=40)
    record = failed.value.flight
    assert record.broken == 7
    assert record.steps.tolist() == [4, 5, 6, 7]
    assert np.isfinite(record.loss).all()
    assert record.suspects == ["second/b", "second/w"]
    assert np.isfinite(record.params["first"]).all()
    message = str(failed.value)
    assert "the loss is nan at step 8" in message
    assert "step 7 is the first that is not finite" in message
    assert "'second/b', 'second/w' of 3" in message
    assert "finite" in str(train.flight_record(fit(RECORDED, 3)[0]))


def test_parameters_that_break_at_the_border_are_named_too():
    with pytest.raises(train.NonFiniteError, match=r"parameters are not finite.*'first' of 3"):
        fit(poisoned(10, "first"), 20, chunk=10)


def test_without_a_recorder_nothing_is_told():
    optimizer = optax.chain(optax.sgd(1e-2), poison(3, "first"))
    with pytest.raises(train.NonFiniteError) as failed:
        fit(train.program(LINE, optimizer), 10)
    assert failed.value.flight is None
    assert "flight" not in str(failed.value)


def test_each_member_of_an_ensemble_has_a_record_of_its_own(key, flown):
    runs, _ = fit(train.ensemble(RECORDED, 2), 21)
    with pytest.raises(ValueError, match=r"2 lanes.*lane\(run, i\)"):
        train.flight_record(runs)
    assert "no step was taken" in str(train.flight_record(RECORDED.init(key, BATCHES.form)))
    for i in range(2):
        record = train.flight_record(train.lane(runs, i))
        np.testing.assert_allclose(record.loss, train.flight_record(flown[0]).loss, rtol=1e-4)
    lanes = train.ensemble(poisoned(4), 2)
    runs = lanes.init(jax.random.key(0), BATCHES.form)
    inner, rows, broken = runs.opt_state
    later = (inner[0], inner[1] - jnp.asarray([2, 0]))  # the counter of lane 0 is two behind
    runs = runs._replace(opt_state=type(runs.opt_state)(later, rows, broken))
    with pytest.raises(train.NonFiniteError) as failed:
        train.fit(lanes, runs, BATCHES, steps=30, chunk=30)
    assert failed.value.flight.broken == 4
    assert failed.value.flight.suspects == ["second/b", "second/w"]


def test_it_works_around_and_inside_of_recorded():
    probe = train.trace_monitor(LINE, share=1.0, probes=2)
    outside = train.flight_recorder(train.monitored(PLAIN, probe, every=4), length=5)
    inside = train.monitored(train.flight_recorder(PLAIN, length=5), probe, every=4)
    records = [train.flight_record(fit(program, 6)[0]) for program in (outside, inside)]
    assert records[0].steps.tolist() == [2, 3, 4, 5, 6]
    np.testing.assert_allclose(records[0].loss, records[1].loss, rtol=1e-6)


def test_numbers_whose_squares_overflow_are_finite_still():
    line = train.objective(
        lambda key, x: {"w": jnp.full(4, 1e25)}, lambda p, x: 1e-25 * p["w"].sum()
    )
    program = train.flight_recorder(train.program(line, optax.sgd(1e30)))
    run = program.init(jax.random.key(0), jnp.ones(2))
    run, _ = jax.jit(program.step)(run, jnp.ones(2))
    record = train.flight_record(run)
    assert record.broken is None
    expected = np.linalg.norm(np.asarray(run.params["w"], float))
    np.testing.assert_allclose(record.params["w"], [expected], rtol=1e-6)
