"""Print numbers of one net, its batch on as many devices as the flags of XLA make of the host."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from funcdl import curvature, losses, operators, per_example


def f(params, batch):
    h = jnp.tanh(jnp.matmul(batch[0], params["w"]) + params["b"][None])
    return jnp.matmul(h, params["v"])


def head(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def loss(params, batch):
    return head(f(params, batch), batch)


@jax.jit
def numbers(params, batch, v):
    hessian = curvature.hessian(loss, params, batch)
    pairs = operators.eigsh(hessian, 2, key=jax.random.key(0), tol=1e-6)
    found = {
        "hessian": hessian @ v,
        "ggn": curvature.ggn(f, head, params, batch) @ v,
        "eigenvalues": pairs.values,
        "norms": per_example.grad_norm(loss)(params, batch),
        "moment": per_example.grad_second_moment(loss)(params, batch),
    }
    return {name: ravel_pytree(x)[0] for name, x in found.items()}


def main():
    draw = np.random.default_rng(0)
    tree = lambda: {
        name: np.float32(draw.normal(size=shape))
        for name, shape in {"w": (5, 6), "b": (6,), "v": (6, 3)}.items()
    }
    params, v = tree(), tree()
    batch = np.float32(draw.normal(size=(16, 5))), np.arange(16) % 3
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    assert len(batch[0].sharding.device_set) == jax.device_count()
    params, v = jax.device_put((params, v), NamedSharding(mesh, PartitionSpec()))
    found = jax.tree.map(lambda x: np.asarray(x).tolist(), numbers(params, batch, v))
    print(json.dumps({"devices": jax.device_count(), **found}))


if __name__ == "__main__":
    main()
