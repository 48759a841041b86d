"""One script for any number of devices and processes: train, save, and write what was reached.

python topology_child.py RULES DEVICES STEPS FOLDER RESULT [RANK PROCESSES PORT]
"""

import json
import os
import pathlib
import re
import sys

rules_name, devices, steps, folder, result = sys.argv[1:6]
rank, processes, port = map(int, sys.argv[6:] or (0, 1, 0))
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0"}

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import linen  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

if processes > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, rank)

from funcdl import data, losses, nn, train  # noqa: E402

RULES = {
    "replicated": {},
    "fsdp": {"**": train.fsdp("data")},
    "tensor": {"Dense_0/kernel": PartitionSpec(None, "data"), "Dense_1": train.fsdp("data")},
}


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(16, use_bias=False)(x))
        x = linen.Dropout(0.1, deterministic=not train)(linen.relu(x))
        return linen.Dense(8)(x)


rng = np.random.default_rng(0)
arrays = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 8, size=64)
objective = train.supervised(nn.from_linen(Net()), losses.softmax_cross_entropy)
mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
program = train.sharded(train.program(objective, optax.adam(1e-2)), mesh, RULES[rules_name])
batches = train.replicated(mesh, data.Batches(arrays, 16, key=jax.random.key(1)))

run = program.init(jax.random.key(0), batches.form)
if os.path.isdir(folder):  # goes on where another topology stopped
    run = train.restore(folder, run)
run, history = train.fit(program, run, batches, steps=int(steps), chunk=7)
train.save(folder, run)
text = jax.jit(program.step).lower(run, batches.at(0)).compile().as_text()
whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))
params = [np.asarray(p).ravel() for p in jax.tree.leaves(whole(run.params))]
if rank == 0:
    found = {
        "params": np.concatenate(params).tolist(),
        "loss": history.metrics["loss"].tolist(),
        "split": [str(p.sharding.spec) for p in jax.tree.leaves(run.params)],
        "all_reduces": text.count(" all-reduce("),
        "products": re.findall(r"= (\S+?)\{\S* dot\(", text),
    }
    pathlib.Path(result).write_text(json.dumps(found))
