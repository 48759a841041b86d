"""A batch that lies on several devices has the curvature that it has on one."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FLAGS = os.environ.get("XLA_FLAGS", "")
CHILD = Path(__file__).with_name("devices_child.py")


@functools.cache
def on(devices: int) -> dict:
    """Ask an interpreter of its own: how many devices there are is fixed when jax starts."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0",  # on few cores collectives may wait for each other
    }
    command = [sys.executable, str(CHILD)]
    # a child that hangs is killed
    done = subprocess.run(
        command, env=environment, check=True, timeout=120, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)
    assert found.pop("devices") == devices
    return found


@pytest.mark.parametrize("devices", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_numbers_are_those_of_one_device(devices):
    found, expected = on(devices), on(1)
    assert len(expected["norms"]) == 16
    for name, numbers in expected.items():
        atol = 1e-5 * np.abs(numbers).max()
        np.testing.assert_allclose(found[name], numbers, rtol=0, atol=atol, err_msg=name)
