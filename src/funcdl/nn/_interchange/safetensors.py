"""Arrays in safetensors files, which every framework can read."""

import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.nn._interchange import atomic_file as _file


def save_safetensors(path: str | os.PathLike, tree: PyTree) -> Path:
    """Write arrays to a safetensors file under their paths, ``a/b/0/kernel``.

    The file is written atomically. Its metadata holds a SHA-256 of names, shapes, dtypes and
    values.

    Args:
        path: The file; an existing file is replaced.
        tree: Any pytree of arrays, such as ``params``, ``variables`` or the result of ``to_torch``.

    Returns:
        The path of the file.

    Raises:
        TypeError: If a leaf is not an array, or has a dtype that the format lacks, such as a key.
        ValueError: If two leaves have the same path.
        ImportError: If ``safetensors`` is missing.

    Source:
        https://huggingface.co/docs/safetensors, format.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> file = save_safetensors(folder + "/net", {"dense": {"kernel": jnp.eye(2)}})
    >>> load_safetensors(file, {"dense": {"kernel": jnp.zeros((2, 2))}})["dense"]["kernel"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    library, arrays = _library(), {}
    for name, leaf in zip(_tree.paths(tree), jax.tree.leaves(tree)):
        if name in arrays:
            raise ValueError(f"two leaves have the path {name!r}; rename one of the dict keys")
        arrays[name] = _host(name, leaf)
    try:
        content = library.numpy.save(arrays, {"sha256": _digest(arrays)})
    except Exception as error:
        kinds = {name: str(array.dtype) for name, array in arrays.items()}
        raise TypeError(f"safetensors cannot store {kinds}: {error}") from error
    return _file.write(path, content)


def load_safetensors(path: str | os.PathLike, like: PyTree) -> PyTree:
    """Read arrays from a safetensors file.

    Nothing is cast. A file that another program wrote has no SHA-256 and is not verified.

    Args:
        path: The file.
        like: A tree of arrays or ``jax.ShapeDtypeStruct``, such as
            ``jax.eval_shape(model.init, key, x).params``.

    Returns:
        The tree, with the structure of ``like``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or a leaf is missing, unexpected, of another shape or
            dtype, or of a 64-bit dtype without ``jax_enable_x64``; the message names the file and
            the leaf.
        ImportError: If ``safetensors`` is missing.
    """
    arrays, metadata = _read(Path(path))
    if "sha256" in metadata and metadata["sha256"] != _digest(arrays):
        raise ValueError(f"{path} is damaged: its arrays do not match their SHA-256")
    forms = dict(zip(_tree.paths(like), jax.tree.leaves(like)))
    for name in [*arrays, *forms]:
        if name not in forms:
            raise ValueError(f"{path}: leaf {name!r} is in the file, but not expected")
        if name not in arrays:
            present = ", ".join(list(arrays)[:3])
            raise ValueError(f"{path}: leaf {name!r} is not in the file, which has {present}, ...")
        have, want = (f"{np.dtype(a.dtype)}{list(a.shape)}" for a in (arrays[name], forms[name]))
        if have != want:
            raise ValueError(f"{path}: leaf {name!r} is {have} in the file; expected {want}")
        check_uncast(f"{path}: leaf {name!r}", arrays[name])
    leaves = [jnp.asarray(arrays[name]) for name in forms]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def check_uncast(name: str, array: np.ndarray) -> None:
    """Raise an error if JAX would cast an array.

    Raises:
        ValueError: If it would; the message starts with ``name``.
    """
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow != array.dtype:
        raise ValueError(
            f"{name} is {array.dtype}, which JAX would cast to {narrow}; set jax_enable_x64, or "
            f"convert the array to {narrow} before it is saved"
        )


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("this needs safetensors: pip install 'funcdl[checkpoint]'") from error
    return safetensors


def _host(name: str, leaf: Any) -> np.ndarray:
    if not hasattr(leaf, "dtype") or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        kind = f"dtype {leaf.dtype}" if hasattr(leaf, "dtype") else f"type {type(leaf).__name__}"
        raise TypeError(f"leaf {name!r} has {kind}; expected an array of numbers")
    array = np.asarray(leaf, order="C")
    if not (issubclass(array.dtype.type, (np.number, np.bool_)) or array.dtype == jnp.bfloat16):
        raise TypeError(
            f"leaf {name!r} has dtype {array.dtype}, which safetensors cannot read back; expected "
            "a NumPy dtype, or bfloat16"
        )
    return array


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    library = _library()
    try:
        with library.safe_open(path, framework="numpy") as file:
            names, metadata = file.keys(), file.metadata() or {}
            return {name: file.get_tensor(name) for name in names}, metadata
    except library.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file: {error}") from error
