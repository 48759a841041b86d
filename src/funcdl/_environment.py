"""Where a result was computed: what its last bits, or the result itself, may depend on."""

import os
import platform
from importlib import metadata

import jax

_PACKAGES = ("numpy", "optax", "flax", "orbax-checkpoint")


def compute() -> dict:
    """Return what a bit-exact resume depends on."""
    return {
        "funcdl": metadata.version("funcdl"),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "cores": cores(),
        "devices": jax.device_count(),
        "device_kind": jax.local_devices()[0].device_kind,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "x64": jax.config.jax_enable_x64,
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "threefry_partitionable": jax.config.jax_threefry_partitionable,
    }


def environment() -> dict:
    """Return what a result depends on besides the code: versions, device, flags, precision.

    Returns:
        Name to value, for JSON.
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
