"""Where and from what a result came: versions, device, hashes."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from funcdl._typing import PyTree

_PACKAGES = ("funcdl", "jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint")


def environment() -> dict[str, str]:
    """Collect what a result may depend on besides the code.

    Returns:
        Versions, device, cores, flags and precision.
    """
    facts = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return facts | {
        "device": f"{device.device_kind} x{jax.device_count()}",
        "cores": str(cores()),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "float64": str(jax.config.jax_enable_x64),
        "matmul precision": str(jax.config.jax_default_matmul_precision or "default"),
        "key implementation": jax.config.jax_default_prng_impl,
    }


def cores() -> int:
    """Count the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(tree: PyTree) -> str:
    """Hash dtypes, shapes and bytes of all leaves with SHA-256.

    Args:
        tree: Pytree of arrays.

    Returns:
        The first 16 hexadecimal digits.

    >>> fingerprint({"a": np.zeros(2)}) == fingerprint({"a": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def commit(folder: str | os.PathLike) -> str:
    """Name the git commit of a folder, with ``-dirty`` where files differ from it.

    Args:
        folder: In a work tree.

    Returns:
        The commit, or ``"unknown"`` where there is none.
    """
    command = ["git", "-C", str(Path(folder)), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return result.stdout.strip() or "unknown"
