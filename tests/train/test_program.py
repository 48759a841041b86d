"""A step is what one would write by hand; means do not depend on the split."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import losses, nn, train
from funcdl.losses import Mean
from funcdl.nn import Variables

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).normal(size=(8,)), jnp.float32)


def noisy_model():
    """Dropout-like noise while training, and a state that counts the training calls."""

    def apply(params, state, x, key=None):
        y = x @ params["w"] + params["b"]
        if key is None:
            return y, state
        return y + 0.1 * jax.random.normal(key, y.shape), {"calls": state["calls"] + 1}

    def init(key, x):
        w = jax.random.normal(key, x.shape[1:])
        return Variables({"w": w, "b": jnp.zeros(())}, {"calls": jnp.int32(0)})

    return nn.Model(init, apply)


def objective():
    metrics = {"absolute": losses.absolute_error}
    return train.supervised(noisy_model(), losses.squared_error, metrics)


def test_a_step_is_the_one_written_by_hand(key):
    adam = optax.adam(1e-2)
    program = train.program(objective(), adam)
    run = program.init(key, (X, Y))
    after, metrics = jax.jit(program.step)(run, (X, Y))

    noise_key = jax.random.fold_in(run.key, 0)

    def by_hand(params):
        y = X @ params["w"] + params["b"] + 0.1 * jax.random.normal(noise_key, (8,))
        return ((y - Y) ** 2).mean(), jnp.abs(y - Y).mean()

    (loss, absolute), grads = jax.value_and_grad(by_hand, has_aux=True)(run.params)
    updates, opt_state = adam.update(grads, run.opt_state, run.params)
    expected = optax.apply_updates(run.params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after.params, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after.opt_state, opt_state
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["absolute"], absolute, rtol=1e-6)
    assert after.state["calls"] == 1
    assert after.step == 1


def test_init_reads_only_shapes(key):
    program = train.program(objective(), optax.sgd(0.1))
    form = jax.eval_shape(lambda x: x, (X, Y))
    real, from_form = program.init(key, (X, Y)), program.init(key, form)
    jax.tree.map(np.testing.assert_array_equal, real.params, from_form.params)


def test_evaluation_changes_nothing_and_draws_nothing(key):
    params, state = objective().init(key, (X, Y))
    first = objective().loss(params, state, (X, Y))
    second = objective().loss(params, state, (X, Y))
    assert first[0] == second[0]
    assert first[1][0] is state


def test_the_gradient_of_a_mean_is_that_of_the_total_over_the_weight(key, x64):
    def masked(params, batch):
        x, y, weight = batch
        return Mean((weight * (x @ params - y) ** 2).sum(), weight.sum())

    weight = jnp.asarray([1.0, 0, 2, 1, 0, 3, 1, 1])
    task = train.objective(lambda key, batch: jnp.ones(3), masked)
    grads, loss, _ = train.gradient(task)(jnp.ones(3), {}, (X, Y, weight), key)
    expected = jax.grad(lambda p: (weight * (X @ p - Y) ** 2).sum() / weight.sum())(jnp.ones(3))
    np.testing.assert_allclose(grads, expected, rtol=1e-6)
    assert isinstance(loss, Mean)
    _, metrics = train.program(task, optax.sgd(0.1)).step(
        train.program(task, optax.sgd(0.1)).init(key, (X, Y, weight)), (X, Y, weight)
    )
    np.testing.assert_allclose(metrics["loss"], loss.total / loss.weight, rtol=1e-6)


def test_the_optimizer_may_be_a_function_of_hyper_and_be_differentiated(key, x64):
    program = train.program(objective(), lambda hyper: optax.sgd(hyper["rate"]))

    def after_steps(rate):
        run = program.init(key, (X, Y), {"rate": rate})
        for _ in range(3):
            run, metrics = program.step(run, (X, Y))
        return metrics["loss"]

    rate, h = 0.05, 1e-6
    slope = jax.grad(after_steps)(rate)
    differences = (after_steps(rate + h) - after_steps(rate - h)) / (2 * h)
    np.testing.assert_allclose(slope, differences, rtol=1e-6)


def test_line_search_gets_value_gradient_and_function(key):
    task = train.objective(
        lambda key, batch: jnp.full(3, 5.0),
        lambda p, batch: losses.squared_error(batch[0] @ p, batch[1]),
    )
    program = train.program(task, optax.lbfgs())
    run = program.init(key, (X, Y))
    step = jax.jit(program.step)
    for _ in range(12):
        run, _ = step(run, (X, Y))
    best = np.linalg.lstsq(np.asarray(X), np.asarray(Y), rcond=None)[0]
    np.testing.assert_allclose(run.params, best, atol=1e-3)


def test_a_run_is_a_value(key):
    program = train.program(objective(), optax.adam(1e-2))
    run = program.init(key, (X, Y))
    scanned, _ = jax.lax.scan(lambda r, _: program.step(r, (X, Y)), run, length=4)
    called = run
    for _ in range(4):
        called, _ = jax.jit(program.step)(called, (X, Y))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), scanned.params, called.params
    )


def test_ensemble_members_are_the_runs_alone(key):
    n = 3
    program = train.program(objective(), optax.adam(1e-2))
    many = train.ensemble(program, n)
    runs = many.init(key, (X, Y))
    assert runs.step.shape == ()
    step, one = jax.jit(many.step), jax.jit(program.step)
    alone = [program.init(k, (X, Y)) for k in jax.random.split(key, n)]
    for _ in range(5):
        runs, metrics = step(runs, (X, Y))
        results = [one(run, (X, Y)) for run in alone]
        alone = [run for run, _ in results]
        np.testing.assert_allclose(metrics["loss"], [m["loss"] for _, m in results], rtol=1e-5)
    member = train.lane(runs, 1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), member.params, alone[1].params
    )
    assert member.step == 5
    one(member, (X, Y))


def test_a_new_run_or_batch_is_no_new_compilation(key):
    traces = []

    def loss(params, batch):
        traces.append(1)
        return losses.squared_error(batch[0] @ params, batch[1])

    program = train.program(train.objective(lambda key, batch: jnp.ones(3), loss), optax.sgd(0.1))
    step = jax.jit(program.step)
    run = program.init(key, (X, Y))
    for i in range(3):
        run, _ = step(run, (X + i, Y))
    assert len(traces) == 1


def test_weak_types_of_an_initializer_cost_no_second_compilation(key):
    task = train.objective(
        lambda key, batch: jnp.full(3, 0.5), lambda p, batch: losses.squared_error(batch[0] @ p, Y)
    )
    program = train.program(task, optax.adam(0.1))
    run = program.init(key, (X, Y))
    step = jax.jit(chex.assert_max_traces(program.step, 1))
    for _ in range(3):
        run, _ = step(run, (X, Y))


def test_eval_loss_is_a_pytree_whose_leaf_is_the_state(key):
    params, state = objective().init(key, (X, Y))
    loss = train.eval_loss(objective(), state)
    assert len(jax.tree.leaves(loss)) == 1
    np.testing.assert_allclose(loss(params, (X, Y)), objective().loss(params, state, (X, Y))[0])
    f = train.outputs(noisy_model(), state)
    np.testing.assert_allclose(f(params, (X, Y)), X @ params["w"] + params["b"])


@pytest.mark.parametrize("hyper", [{}, {"rate": 0.1}])
def test_runs_of_one_program_have_one_form(key, hyper):
    program = train.program(objective(), lambda h: optax.sgd(h.get("rate", 0.1)))
    run = program.init(key, (X, Y), hyper)
    after = jax.eval_shape(program.step, run, (X, Y))[0]
    assert jax.tree.structure(after) == jax.tree.structure(run)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(run)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
