"""Solve with K-FAC of a layer-stacked transformer: many stacked decompositions in one program.

python stacked_child.py
"""

import jax
import jax.numpy as jnp

from funcdl import curvature, losses

WIDTH, LAYERS, TOKENS = 48, 2, 4


def attention(p, x):
    q, k, v = (x @ p[name] for name in ("query", "key", "value"))
    weights = jax.nn.softmax(jnp.einsum("bsd,btd->bst", q, k) / WIDTH**0.5)
    return x + weights @ v @ p["output"]


def feed_forward(p, x):
    return x + (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def model(params, batch):
    layer = lambda x, p: (feed_forward(p, attention(p, x)), None)
    x = jax.lax.scan(layer, batch[0], params["layers"])[0]
    return x.mean(axis=1) @ params["head"]


def loss(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def main():
    names = ("query", "key", "value", "output", "gate", "up", "down")
    keys = jax.random.split(jax.random.key(0), len(names) + 2)
    stack = (LAYERS, WIDTH, WIDTH)
    layers = {name: jax.random.normal(key, stack) / WIDTH**0.5 for name, key in zip(names, keys)}
    params = {"layers": layers, "head": jax.random.normal(keys[-2], (WIDTH, 3)) / WIDTH**0.5}
    batch = jax.random.normal(keys[-1], (6, TOKENS, WIDTH)), jnp.arange(6) % 3

    @jax.jit
    def steps(params):
        slope = jax.grad(lambda p: loss(model(p, batch), batch))(params)
        factored = [f(model, loss, params, batch) for f in (curvature.kfac, curvature.ekfac)]
        return [A.inv(damping=0.1) @ slope for A in factored]

    for _ in range(10):  # a race does not happen each time
        found = jax.block_until_ready(steps(params))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(found))


if __name__ == "__main__":
    main()
