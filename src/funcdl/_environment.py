"""The environment of a run: everything a result, or its last bits, may depend on except code."""

import os
import platform
from importlib import metadata

import jax

_PACKAGES = ("numpy", "optax", "flax", "orbax-checkpoint")
_SETTINGS = {
    "x64": "jax_enable_x64",
    "matmul_precision": "jax_default_matmul_precision",
    "threefry_partitionable": "jax_threefry_partitionable",
}


def compute() -> dict:
    """Return the settings that a bit-exact resume depends on."""
    return {
        "funcdl": metadata.version("funcdl"),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "cores": cores(),
        "devices": jax.device_count(),
        "device_kind": jax.local_devices()[0].device_kind,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        **{name: getattr(jax.config, flag) for name, flag in _SETTINGS.items()},
    }


def environment() -> dict:
    """Return everything a result depends on except the code: versions, device, flags, precision.

    Returns:
        A dict from names to values that JSON can hold.
    """
    facts = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return compute() | facts


def cores() -> int:
    """Count the processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
