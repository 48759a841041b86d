"""Preconditioned steps against the solves that they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from funcdl import curvature, data, train
from funcdl.curvature import (
    ggn_diagonal_preconditioner,
    hutchinson_preconditioner,
    kfac_preconditioner,
    kl_clip,
    preconditioned,
)
from funcdl.operators import from_diagonal

X = np.float32(cases.normal(0, 32, 5) * np.asarray([3, 1, 0.3, 0.1, 0.03]))
Y = np.float32((X / np.asarray([3, 1, 0.3, 0.1, 0.03])) @ cases.normal(1, 5, 2))
BATCH = jnp.asarray(X), jnp.asarray(Y)
DAMPING = 1e-2


def f(params, batch):
    hidden = jnp.tanh(jnp.matmul(batch[0], params["w"]) + params["b"][None])
    return jnp.matmul(hidden, params["v"])


def loss(z, batch):
    return 0.5 * ((z - batch[1]) ** 2).sum(axis=1).mean()


def whole(params, batch):
    return loss(f(params, batch), batch)


def start(*_):
    w, v = (
        np.float32(0.3 * cases.normal(seed, *shape)) for seed, shape in ((2, (5, 4)), (3, (4, 2)))
    )
    return {"w": jnp.asarray(w), "b": jnp.zeros(4), "v": jnp.asarray(v)}


def preconditioners():
    return {
        "kfac": kfac_preconditioner(f, loss, damping=DAMPING),
        "diagonal": ggn_diagonal_preconditioner(f, loss, damping=DAMPING),
        "hutchinson": hutchinson_preconditioner(whole, key=jax.random.key(0), damping=DAMPING),
    }


def dense_inverse(name, params):
    """The matrix that the gradient is divided by, from other functions."""
    if name == "kfac":
        return curvature.kfac(f, loss, params, BATCH).dense()
    if name == "diagonal":
        return jnp.diag(jnp.diag(curvature.ggn(f, loss, params, BATCH).dense()))
    z = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)
    z = [jax.random.rademacher(k, x.shape, jnp.float32) for k, x in zip(z, jax.tree.leaves(params))]
    z = np.concatenate([np.ravel(x) for x in z])
    hessian = curvature.hessian(whole, params, BATCH).dense()
    return jnp.diag(jnp.abs(z * (hessian @ z)))


@pytest.mark.parametrize("name", ["kfac", "diagonal", "hutchinson"])
def test_the_first_step_is_the_solution_with_the_damped_matrix(name):
    params = start()
    transform = preconditioned(preconditioners()[name], BATCH)
    gradient = jax.grad(whole)(params, BATCH)
    update = jax.jit(lambda g, p, b: transform.update(g, transform.init(p), p, batch=b)[0])
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    matrix = np.float64(dense_inverse(name, params)) + DAMPING * np.eye(32)
    expected = np.linalg.solve(matrix, flat(gradient))
    found = flat(update(gradient, params, BATCH))
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_measurements_are_averaged_and_made_only_every_so_many_steps():
    values = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0])
    measure = lambda params, batch, step: {"scale": values[step]}
    invert = lambda params, mean: from_diagonal(mean["scale"] * jnp.ones_like(params))
    transform = preconditioned(curvature.Preconditioner(measure, invert), BATCH, every=2, decay=0.5)
    state, found = transform.init(jnp.ones(2)), []
    step = jax.jit(functools.partial(transform.update, batch=BATCH))
    for _ in range(5):
        update, state = step(jnp.ones(2), state, jnp.ones(2))
        found.append(update[0].item())
    means = [1.0, (0.5 * 1 + 3) / 1.5, (0.25 * 1 + 0.5 * 3 + 5) / 1.75]
    expected = [means[0], means[0], means[1], means[1], means[2]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert state.measured == 3
    assert step._cache_size() == 1


def test_a_program_trains_an_ill_conditioned_net_in_fewer_steps_than_without():
    objective = train.objective(start, whole)
    batches = data.Batches(BATCH, 32)

    def final(optimizer):
        program = train.program(objective, optimizer)
        run = program.init(jax.random.key(0), batches.form)
        run, history = train.fit(program, run, batches, steps=60)
        return float(history.metrics["loss"][-1]), run

    plain = min(final(optax.sgd(rate))[0] for rate in (0.1, 0.3))
    natural = preconditioned(preconditioners()["kfac"], batches.form, every=5)
    loss, run = final(optax.chain(natural, kl_clip(0.1), optax.sgd(0.3)))
    assert loss < 0.1 * plain
    assert run.opt_state[0].step == 60
    assert run.opt_state[0].measured == 12


def test_members_of_an_ensemble_measure_only_when_due():
    objective, batches = train.objective(start, whole), data.Batches(BATCH, 32)
    optimizer = optax.chain(
        preconditioned(preconditioners()["diagonal"], batches.form, every=3), optax.sgd(0.1)
    )
    program = train.ensemble(train.program(objective, optimizer), 2)
    run = program.init(jax.random.key(0), batches.form)
    step = str(jax.make_jaxpr(program.step)(run, batches.at(0)))
    assert " cond[" in step  # not a select, which would measure at every step
    run, _ = train.fit(program, run, batches, steps=6)
    assert run.opt_state[0].measured.tolist() == [2, 2]


@pytest.mark.usefixtures("x64")
def test_a_measurement_that_is_not_finite_is_left_out_and_weights_are_right_near_1():
    values = jnp.asarray([2.0, jnp.nan, 4.0])
    measure = lambda params, batch, step: values[step]
    invert = lambda params, mean: from_diagonal(mean * jnp.ones_like(params))
    for decay, last in ((0.5, (0.5 * 2 + 4) / 1.5), (1 - 1e-9, 3.0)):
        pair = curvature.Preconditioner(measure, invert)
        transform = preconditioned(pair, BATCH, every=1, decay=decay)
        state, found = transform.init(jnp.ones(2)), []
        for _ in range(3):
            update, state = transform.update(jnp.ones(2), state, jnp.ones(2), batch=BATCH)
            found.append(update[0].item())
        np.testing.assert_allclose(found, [2, 2, last], rtol=1e-7)


def test_bad_arguments_are_named():
    pair = preconditioners()["diagonal"]
    with pytest.raises(ValueError, match="every is 0"):
        preconditioned(pair, BATCH, every=0)
    with pytest.raises(ValueError, match="decay is 1"):
        preconditioned(pair, BATCH, decay=1.0)
    with pytest.raises(ValueError, match="bound is 0"):
        kl_clip(0.0)
    with pytest.raises(ValueError, match=r"got no grad; train\.program"):
        kl_clip(0.1).update(start(), None)
    transform = preconditioned(pair, BATCH)
    with pytest.raises(ValueError, match=r"got no batch; train\.program"):
        transform.update(start(), transform.init(start()), start())
