"""One script for any number of devices and processes: train, save, and write what was reached.

python topology_child.py RULES DEVICES STEPS FOLDER RESULT [RANK PROCESSES PORT]
"""

import json
import os
import pathlib
import re
import sys


def main(rules: str, devices: str, steps: str, folder: str, result: str, *ranks: str) -> None:
    """Say how many devices there are before jax is imported."""
    rank, processes, port = map(int, ranks or (0, 1, 0))
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0"}

    import jax

    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, rank)
    found = trained(rules, int(steps), folder)
    if rank == 0:
        pathlib.Path(result).write_text(json.dumps(found))


def setting():
    """Return the program without its mesh, and the data."""
    import jax
    import numpy as np
    import optax
    from flax import linen

    from funcdl import data, losses, nn, train

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            # no bias before the norm: Adam would make steps of its rounding noise
            x = linen.Dense(16, use_bias=False)(x)
            x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
            return linen.Dense(8)(linen.Dropout(0.1, deterministic=not train)(x))

    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 8, size=64)
    objective = train.supervised(nn.from_linen(Net()), losses.softmax_cross_entropy)
    program = train.program(objective, optax.adam(1e-2))
    return program, data.Batches(arrays, 16, key=jax.random.key(1))


def trained(rules: str, steps: int, folder: str) -> dict:
    """Train on all devices, from the newest checkpoint if there is one."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from funcdl import train

    by_name = {
        "replicated": {},
        "stream": {},
        "fsdp": {"**": train.fsdp("data")},
        "tensor": {
            "Dense_0/kernel": PartitionSpec(None, "data"),
            "Dense_1": train.fsdp("data"),
        },
    }
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    program, batches = setting()
    program = train.sharded(program, mesh, by_name[rules])
    whole = train.replicated(mesh, batches)
    source = own_rows(mesh, batches) if rules == "stream" else whole

    run = program.init(jax.random.key(0), whole.form)
    if os.path.isdir(folder):  # goes on where another topology stopped
        run = train.restore(folder, run)
    run, history = train.fit(program, run, source, steps=steps, chunk=7)
    train.save(folder, run)

    text = jax.jit(program.step).lower(run, whole.at(0)).compile().as_text()
    gather = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))
    params = [np.asarray(p).ravel() for p in jax.tree.leaves(gather(run.params))]
    return {
        "params": np.concatenate(params).tolist(),
        "loss": history.metrics["loss"].tolist(),
        "split": [str(p.sharding.spec) for p in jax.tree.leaves(run.params)],
        "all_reduces": text.count(" all-reduce("),
        "products": re.findall(r"= (\S+?)\{\S* dot\(", text),
    }


def own_rows(mesh, batches):
    """Return a stream of this process's rows of every batch."""
    import itertools

    import jax
    import numpy as np

    from funcdl import data, train

    rank, count = jax.process_index(), jax.process_count()
    part = lambda x: np.split(np.asarray(x), count)[rank]
    read = lambda step: (jax.tree.map(part, batches.at(s)) for s in itertools.count(step))
    return train.per_process(mesh, data.Stream(read))


if __name__ == "__main__":
    main(*sys.argv[1:])
