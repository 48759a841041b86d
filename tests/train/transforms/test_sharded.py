"""The same script on one device, two, eight and in two processes reaches the same numbers."""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from funcdl import data, train

CHILD = Path(__file__).with_name("topology_child.py")
LIMIT = 240  # seconds: a collective that waits for a device that never comes waits for ever


class Topology(NamedTuple):
    rules: str
    devices: int
    processes: int = 1


def trained(topology: Topology, steps: int, folder: Path) -> dict:
    """Train to a step in processes that are killed if they hang."""
    result = folder / f"{steps}.json"
    command = [sys.executable, CHILD, topology.rules, str(topology.devices), str(steps)]
    command = [*map(str, command), str(folder / "run"), str(result)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    count = topology.processes
    ranks = [[str(rank), str(count), str(port)] if count > 1 else [] for rank in range(count)]
    children = [
        subprocess.Popen(
            command + rank, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        for rank in ranks
    ]
    try:
        outputs = [child.communicate(timeout=LIMIT)[0].decode() for child in children]
    finally:
        for child in children:  # SIGTERM is caught by jax.distributed
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    assert all(child.returncode == 0 for child in children), "\n".join(outputs)
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("alone")
    return {steps: trained(Topology("replicated", 1), steps, folder) for steps in (25, 50)}


def same(found: dict, expected: dict) -> None:
    np.testing.assert_allclose(found["params"], expected["params"], atol=1e-5)
    np.testing.assert_allclose(found["loss"], expected["loss"], atol=1e-5)


def test_two_devices_share_the_work_and_go_on_split_where_they_were_whole(alone, tmp_path):
    whole = trained(Topology("replicated", 2), 25, tmp_path)
    same(whole, alone[25])
    assert whole["all_reduces"] >= 1
    # 16 examples a batch, 8 a device: nobody computes the whole batch
    assert [p for p in whole["products"] if p.startswith("f32[16,16]")] == []
    assert "f32[8,16]" in whole["products"]

    split = trained(Topology("fsdp", 2), 50, tmp_path)
    same(split, alone[50])
    assert all("data" in spec for spec in split["split"])
    program, batches = runpy.run_path(str(CHILD))["setting"]()
    like = jax.eval_shape(program.init, jax.random.key(0), batches.form)
    run = train.restore(tmp_path / "run", like)
    flat = np.concatenate([np.asarray(p).ravel() for p in jax.tree.leaves(run.params)])
    np.testing.assert_array_equal(flat, np.asarray(split["params"], np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology",
    [
        Topology("tensor", 2),
        Topology("replicated", 8),
        Topology("fsdp", 8),
        Topology("replicated", 1, 2),
        Topology("fsdp", 1, 2),
        Topology("stream", 2),
        Topology("stream", 1, 2),
        Topology("tensor", 2, 2),
    ],
    ids=str,
)
def test_every_topology_reaches_the_same_numbers_and_resumes_on_another(alone, tmp_path, topology):
    same(trained(topology, 25, tmp_path), alone[25])
    same(trained(Topology("fsdp", 2), 50, tmp_path), alone[50])


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(alone, tmp_path):
    trained(Topology("replicated", 1), 25, tmp_path)
    same(trained(Topology("fsdp", 2, 2), 50, tmp_path), alone[50])


def mesh(*names):
    return jax.make_mesh((1,) * len(names), names, axis_types=(AxisType.Auto,) * len(names))


LINE = train.objective(
    lambda key, x: {"a": jnp.ones((4, 6)), "b": jnp.ones(3)}, lambda p, x: p["b"].sum()
)
PROGRAM = train.program(LINE, optax.adam(0.1))


def test_what_the_optimizer_holds_lies_as_its_parameter(key):
    program = train.sharded(PROGRAM, mesh("data", "model"), {"a": PartitionSpec(None, "model")})
    run = program.init(key, jnp.ones(2))
    specs = {run.params["a"].sharding.spec, run.opt_state[0].nu["a"].sharding.spec}
    assert specs == {PartitionSpec(None, "model")}
    assert run.params["b"].sharding.spec == run.key.sharding.spec == PartitionSpec()


def test_lanes_with_an_order_each_split_the_examples_of_every_lane(key):
    orders = data.orders(data.Batches(jnp.arange(8.0), 4), jax.random.split(key, 3))
    two = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))
    program = train.ensemble(train.program(LINE, optax.sgd(0.1)), 3)
    run = jax.eval_shape(program.init, key, orders.form)
    step = str(jax.make_jaxpr(train.sharded(program, two).step)(run, orders.form))
    assert "spec=P(None, 'data')" in step.replace("PartitionSpec", "P")


def test_lanes_may_be_split_instead_of_batches(key):
    many = train.ensemble(PROGRAM, 4)
    program = train.sharded(many, mesh("lanes"), {"**": PartitionSpec("lanes")}, batch=None)
    run, metrics = jax.jit(program.step)(program.init(key, jnp.ones(3)), jnp.ones(3))
    assert run.params["a"].sharding.spec == PartitionSpec("lanes")
    assert metrics["loss"].shape == (4,)
