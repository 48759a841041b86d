"""Flows are trained by the room ``train``, and a file of numbers becomes a density in ten lines."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from flow_cases import FLOWS, fresh, jacobian, moved, point
from funcdl import data, density, flows, train


@pytest.mark.parametrize("name", FLOWS)
def test_the_log_determinant_found_is_the_dense_one(name, x64):
    flow, shape = FLOWS[name]
    params, x = moved(fresh(name, jnp.float64)), point(shape, jnp.float64)
    f = Partial(flow.forward, params)
    z, log_det = jax.jit(lambda f, x: density.value_and_log_det(f)(x))(f, x)
    np.testing.assert_allclose(z, flow.forward(params, x), rtol=1e-10)
    dense = np.linalg.slogdet(jacobian(flow, params, x))[1]
    # a continuous flow integrates its trace, which differs by the error of the method
    tol = 2e-3 if name == "continuous" else 1e-10
    np.testing.assert_allclose(log_det, dense, rtol=tol, atol=tol)


def test_the_ten_lines_fit_a_correlated_gaussian_in_its_own_units(tmp_path):
    rng = np.random.default_rng(0)
    covariance = np.asarray([[9.0, 0.12], [0.12, 0.01]])
    x = rng.multivariate_normal([100.0, 0.0], covariance, size=2000)
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="a,b", comments="")

    table = data.csv(tmp_path / "x.csv")
    held_in, held_out = data.split(table.x, 0.25, key=jax.random.key(0))
    standard = data.standardize(held_in, names=table.names)
    flow = flows.real_nvp(2, flows.mlp(8))
    init, loss = flows.likelihood(flow, flows.standard_normal)
    program = train.program(train.objective(init, loss), optax.adam(1e-2))
    batches = data.Batches(standard(held_in), 250, key=jax.random.key(1))
    run, _ = train.fit(program, program.init(jax.random.key(2), batches.form), batches, steps=300)
    nats = loss(run.params, jnp.asarray(standard(held_out), jnp.float32)) - standard.log_det

    _, log_det = np.linalg.slogdet(covariance)
    centered = held_out - [100.0, 0.0]
    square = np.einsum("ni,ij,nj->n", centered, np.linalg.inv(covariance), centered)
    truth = 0.5 * (square.mean() + log_det) + np.log(2 * np.pi)
    assert truth - 0.02 < nats < truth + 0.05


def test_a_context_is_the_second_part_of_a_batch():
    flow = flows.real_nvp(2, flows.mlp(4))
    init, loss = flows.likelihood(flow, flows.standard_normal)
    x, context = jnp.ones((3, 2)), jnp.arange(3.0)[:, None]
    params = moved(init(jax.random.key(0), (x, context)))
    one = lambda x, c: loss(params, (x[None], c[None]))
    each = [one(x[i], context[i]) for i in range(3)]
    np.testing.assert_allclose(loss(params, (x, context)), np.mean(each), rtol=1e-5)
