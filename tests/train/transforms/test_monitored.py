"""What a run records of itself is what one would measure by hand, at the steps it says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import curvature, data, losses, train

X = jnp.asarray(np.random.default_rng(0).normal(size=(64, 6)), jnp.float32)
BATCHES = data.Batches(X, 16, key=jax.random.key(3))


def line():
    """Half the mean square of a linear function: the Hessian is the second moment of x."""
    loss = lambda w, x: 0.5 * ((x @ w) ** 2).mean()
    return train.objective(lambda key, x: jax.random.normal(key, (6,)), loss)


def sgd():
    return train.program(line(), optax.sgd(0.05))


def probes():
    objective = line()
    return (
        train.sharpness_monitor(objective, steps=3),
        train.trace_monitor(objective, share=0.5, probes=30),
        train.noise_monitor(objective, share=1.0),
    )


@pytest.fixture(scope="module")
def trained():
    program = train.monitored(sgd(), *probes(), every=4)
    return train.fit(program, program.init(jax.random.key(0), BATCHES.form), BATCHES, steps=12)


def test_the_run_is_the_one_that_does_not_measure(trained):
    run, history = trained
    alone, log = train.fit(sgd(), sgd().init(jax.random.key(0), BATCHES.form), BATCHES, steps=12)
    np.testing.assert_allclose(run.params, alone.params, rtol=1e-6)
    np.testing.assert_allclose(history.metrics["loss"], log.metrics["loss"], rtol=1e-5)
    inner = jax.tree.structure(run.opt_state.inner)
    assert inner == jax.tree.structure(alone.opt_state)


def test_what_is_recorded_is_what_one_measures_by_hand(trained):
    log = trained[1].metrics
    run = sgd().init(jax.random.key(0), BATCHES.form)
    run, _ = train.fit(sgd(), run, BATCHES, steps=8)
    batch = BATCHES.at(8)
    moment = lambda x: np.float64(x).T @ np.float64(x) / len(x)
    values = np.linalg.eigvalsh(moment(batch[:4]))
    nearest = np.abs(values - log["sharpness"][8]).min()
    assert nearest <= log["sharpness_residual"][8] + 1e-6
    assert log["sharpness"][8] <= values[-1] + 1e-5
    assert abs(log["trace"][8] - np.trace(moment(batch[:8]))) < 4 * log["trace_stderr"][8]
    loss = train.eval_loss(line(), run.state)
    noise = curvature.noise_scale(loss, run.params, batch)
    np.testing.assert_allclose(log["noise_scale"][8], noise.value, rtol=1e-4)
    np.testing.assert_allclose(log["noise_scale_stderr"][8], noise.stderr, rtol=1e-4)


def test_between_two_measurements_the_last_one_stands(trained):
    log = trained[1].metrics
    for name in ("sharpness", "trace", "noise_scale"):
        rows = log[name].reshape(3, 4)
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0])) == 3


def test_the_eigenvector_converges_along_the_run_and_a_resumed_run_records_the_same(trained):
    log = trained[1].metrics
    program = train.monitored(sgd(), *probes(), every=4)
    whole = data.Batches(X, 64)
    still = train.monitored(
        train.program(line(), optax.sgd(0.0)), train.sharpness_monitor(line(), share=1.0), every=1
    )
    _, steady = train.fit(still, still.init(jax.random.key(0), whole.form), whole, steps=8)
    top = np.linalg.eigvalsh(np.float64(X).T @ np.float64(X) / 64)[-1]
    np.testing.assert_allclose(steady.metrics["sharpness"][-1], top, rtol=1e-5)
    assert steady.metrics["sharpness_residual"][-1] < 0.1 * steady.metrics["sharpness_residual"][0]
    run, _ = train.fit(program, program.init(jax.random.key(0), BATCHES.form), BATCHES, steps=5)
    _, rest = train.fit(program, run, BATCHES, steps=12)
    for name in log:
        np.testing.assert_array_equal(rest.metrics[name], log[name][5:])


def test_an_ensemble_records_each_member_and_measures_only_when_due():
    calls = []

    def measure(carry, run, batch, key):
        jax.debug.callback(lambda: calls.append(None))
        return carry + 1, {"count": carry, "largest": jnp.abs(run.params).max()}

    count = train.Monitor(lambda key, params: jnp.int32(0), measure)
    program = train.ensemble(train.monitored(sgd(), count, every=4), 2)
    run = program.init(jax.random.key(0), BATCHES.form)
    run, history = train.fit(program, run, BATCHES, steps=9)
    jax.effects_barrier()
    assert history.metrics["count"][:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert history.metrics["largest"].shape == (9, 2)
    assert len(calls) == 3


def test_a_step_compiles_once_and_stays_on_the_device():
    program = train.monitored(sgd(), *probes(), every=2)
    traces = []

    @jax.jit
    def step(run, batch):
        traces.append(None)
        return program.step(run, batch)

    run = program.init(jax.random.key(0), BATCHES.form)
    batch = BATCHES.at(0)
    run, _ = step(run, batch)
    with jax.transfer_guard("disallow"):
        for _ in range(4):
            run, metrics = step(run, batch)
    assert len(traces) == 1
    assert np.isfinite(metrics["sharpness"])


def test_a_batch_without_weight_does_not_end_the_series():
    def loss(w, batch):
        x, weight = batch
        return losses.Mean((0.5 * weight * (x @ w) ** 2).sum(), weight.sum())

    objective = train.objective(lambda key, batch: jnp.ones(6), loss)
    program = train.monitored(
        train.program(objective, optax.sgd(0.0)), train.sharpness_monitor(objective), every=1
    )
    step, empty = jax.jit(program.step), jnp.ones(64).at[:16].set(0)
    run = program.init(jax.random.key(0), (X, empty))
    found = []
    for weight in (jnp.ones(64), empty, jnp.ones(64)):
        run, metrics = step(run, (X, weight))
        found.append(metrics["sharpness"])
    assert np.isfinite(found).tolist() == [True, False, True]


def test_two_metrics_of_one_name_are_refused():
    twice = train.monitored(
        sgd(), train.trace_monitor(line()), train.trace_monitor(line()), every=2
    )
    with pytest.raises(ValueError, match="two metrics have the name 'trace'"):
        twice.init(jax.random.key(0), BATCHES.form)
    loss = train.Monitor(
        lambda key, params: (), lambda carry, *rest: (carry, {"loss": jnp.ones(())})
    )
    program = train.monitored(sgd(), loss, every=2)
    lanes = train.monitored(train.ensemble(sgd(), 2), train.trace_monitor(line()), every=2)
    with pytest.raises(ValueError, match=r"lanes; monitor its members: ensemble\(monitored"):
        lanes.init(jax.random.key(0), BATCHES.form)
    with pytest.raises(ValueError, match="two metrics have the name 'loss'"):
        program.step(program.init(jax.random.key(0), BATCHES.form), BATCHES.at(0))
