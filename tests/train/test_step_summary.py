"""Counts of a step are those of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from funcdl import losses, nn, train


def test_a_step_is_counted_with_its_optimizer():
    model = nn.from_linen(linen.Dense(16, use_bias=False))
    objective = train.supervised(model, losses.squared_error)
    batch = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((64, 16), jnp.float32)
    plain = train.summary(train.program(objective, optax.sgd(0.1)), batch)
    adam = train.summary(train.program(objective, optax.adam(0.1)), batch)
    assert plain.parameters == 512
    assert (plain.params, plain.state, plain.batch) == (2048, 0, 64 * 48 * 4)
    assert plain.opt_state == 0
    assert adam.opt_state == 2 * 2048 + 4  # two moments and a count
    products = 2 * (2 * 64 * 32 * 16)  # forward, and the gradient of the kernel
    assert products < plain.flops < 1.2 * products
    assert plain.flops + 512 < adam.flops
    assert plain.accessed > plain.params + plain.batch
    assert "512 parameters" in str(plain)


def test_a_step_of_given_hyper_parameters_is_counted():
    line = train.objective(lambda key, x: jnp.zeros(3), lambda w, x: ((x @ w) ** 2).mean())
    swept = train.program(line, lambda hyper: optax.adam(hyper["rate"]))
    batch = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    found = train.summary(swept, batch, hyper={"rate": 0.1})
    assert (found.parameters, found.opt_state) == (3, 2 * 12 + 4)


@pytest.mark.parametrize("length", [2, 9])
def test_the_steps_of_a_scan_are_counted(length):
    def net(params, x):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, params)[0].mean()

    task = train.objective(lambda key, x: jnp.ones((length, 32, 32)), net)
    program = train.program(task, optax.sgd(0.1))
    found = train.summary(program, jax.ShapeDtypeStruct((16, 32), jnp.float32))
    np.testing.assert_allclose(found.flops, 3 * length * 2 * 16 * 32 * 32, rtol=0.35)
