"""Every transformation of pairs, alone and all at once; as a script, a training that may be killed.

python stack.py FOLDER STEPS
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jax.sharding import AxisType, PartitionSpec

from funcdl import data, losses, nn, train

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(24, 4)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, size=24))
MESH = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dropout(0.2, deterministic=not train)(jnp.tanh(linen.Dense(5)(x)))
        return linen.Dense(3)(x)


PLAIN = train.supervised(
    nn.from_linen(Net()), losses.softmax_cross_entropy, {"accuracy": losses.accuracy}
)


def noisy(key, batch):
    return batch[0] + 0.1 * jax.random.normal(key, batch[0].shape), batch[1]


OBJECTIVES = {
    "plain": lambda objective: objective,
    "mixed_precision": train.mixed_precision,
    "rematerialized": lambda objective: train.rematerialized(objective, segments=2),
    "augmented": lambda objective: train.augmented(objective, noisy),
}
GRADIENTS = {
    "gradient": train.gradient,
    "accumulated": train.accumulated(2),
    "clipped": train.clipped_per_example(1.0, 0.1),
}
PROGRAMS = {
    "averaged": train.averaged,
    "recorded": lambda p: train.monitored(p, train.noise_monitor(PLAIN), every=2),
    "ensemble": lambda p: train.ensemble(p, 2),
    "sweep": lambda p: train.sweep(p, rate=[0.1, 0.2]),
    "sharded": lambda p: train.sharded(p, MESH, {"**/kernel": PartitionSpec("data")}),
}


def optimizer(hyper):
    labels = {"**/bias": optax.sgd(hyper["rate"]), "**": optax.adam(hyper["rate"])}
    return train.optimizers_by_path(labels)


def stack():
    """Every transformation at once."""
    objective = OBJECTIVES["augmented"](PLAIN)
    for name in ("mixed_precision", "rematerialized"):
        objective = OBJECTIVES[name](objective)
    program = train.program(objective, optimizer, GRADIENTS["accumulated"])
    for name in ("recorded", "averaged", "sweep", "sharded"):
        program = PROGRAMS[name](program)
    return program


def batches():
    return data.Batches((X, Y), 8, key=jax.random.key(3))


def main(folder: str, steps: int) -> None:
    """Train to a step; go on from the newest checkpoint, save one every other step."""
    program, source = stack(), batches()
    run = program.init(jax.random.key(0), source.form)
    if train.latest(folder) is not None:
        run = train.restore(folder, run)
    saving = train.checkpoint(folder, every=2)
    train.fit(program, run, source, steps=steps, chunk=2, callbacks=[saving])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
