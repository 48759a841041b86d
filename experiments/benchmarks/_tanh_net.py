"""The tanh net on digits whose curvature the benchmarks measure."""

import itertools

import numpy as np


def digits(examples: int) -> tuple:
    """Return a batch of flattened images and their labels."""
    import jax.numpy as jnp

    from funcdl import data

    (images, labels), _ = data.digits()
    x = np.asarray(images).reshape(len(images), -1)[:examples]
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels[:examples])


def start(hidden: tuple[int, int]) -> list:
    """Draw weights and biases."""
    import jax.numpy as jnp

    draw = np.random.default_rng(0).normal
    return [
        (jnp.asarray(draw(size=(m, n)) / m**0.5, jnp.float32), jnp.zeros((1, n)))
        for m, n in itertools.pairwise((64, *hidden, 10))
    ]


def trained(params: list, batch: tuple, steps: int) -> list:
    """Return the parameters after some steps of Adam."""
    import jax
    import optax

    optimizer = optax.adam(1e-3)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params


def logits(params, x):
    """Return the outputs of the net."""
    import jax.numpy as jnp

    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def loss(params, batch):
    """Return the mean cross-entropy of the net."""
    from funcdl import losses

    return losses.softmax_cross_entropy(logits(params, batch[0]), batch[1])
