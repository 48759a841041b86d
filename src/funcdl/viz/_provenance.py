"""The provenance of a result: hashes and commits."""

import hashlib
import os
import subprocess
from pathlib import Path

import jax
import numpy as np

from funcdl._typing import PyTree


def fingerprint(tree: PyTree) -> str:
    """Hash dtypes, shapes and bytes of all leaves with SHA-256.

    Args:
        tree: A pytree of arrays.

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
    """Return the git commit of a folder, with ``-dirty`` if files differ from it.

    Args:
        folder: A folder in a work tree.

    Returns:
        The commit, or ``"unknown"`` outside of a repository.
    """
    command = ["git", "-C", str(Path(folder)), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return result.stdout.strip() or "unknown"
