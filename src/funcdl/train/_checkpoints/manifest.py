"""The manifest of a checkpoint: every leaf, every file, and the environment that computed it."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p
from jax.sharding import NamedSharding, PartitionSpec

from funcdl import _environment
from funcdl._tree import paths
from funcdl._typing import PyTree
from funcdl.train._checkpoints import processes as _hosts

FORMAT = 1
NAME = "manifest.json"


class CheckpointError(ValueError):
    """A saved run is damaged, or does not fit the program that tries to resume it."""


class Leaf(NamedTuple):
    """The description of one leaf.

    Attributes:
        path: The path, such as ``params/dense/kernel``.
        shape: The shape.
        dtype: The name of the dtype; for typed keys ``key<fry>`` or similar.
        weak_type: Whether the dtype is weak in JAX's type promotion.
        key_impl: The implementation of a typed key; empty for any other leaf.
        sha256: The digest of the bytes; empty for a leaf that is only a shape.
    """

    path: str
    shape: tuple
    dtype: str
    weak_type: bool = False
    key_impl: str = ""
    sha256: str = ""


def describe(tree: PyTree) -> list[Leaf]:
    """Describe every leaf of a tree of arrays or ``jax.ShapeDtypeStruct``, without its bytes.

    Args:
        tree: Any pytree of arrays.

    Returns:
        One ``Leaf`` per leaf, in the order of ``jax.tree.leaves``.

    Raises:
        TypeError: If a leaf is not an array, or has a dtype that JAX would cast.
        ValueError: If two leaves have the same path.

    >>> describe({"a": jnp.zeros(2)})[0][:3]
    ('a', (2,), 'float32')
    """
    leaves = [_describe(path, leaf) for path, leaf in zip(paths(tree), jax.tree.leaves(tree))]
    seen = set()
    for leaf in leaves:
        if leaf.path in seen:
            raise ValueError(f"two leaves have the path {leaf.path!r}; rename one of the dict keys")
        seen.add(leaf.path)
    return leaves


def _describe(path: str, leaf: Any) -> Leaf:
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise TypeError(
            f"leaf {path} is a {type(leaf).__name__}; a checkpoint holds only arrays: use "
            "jnp.asarray(value, dtype) where the run is created"
        )
    if is_key(leaf):
        impl = str(jax.random.key_impl(leaf)) if isinstance(leaf, jax.Array) else ""
        return Leaf(path, tuple(leaf.shape), str(leaf.dtype), key_impl=impl)
    dtype = np.dtype(leaf.dtype)
    if dtype.kind in "OSUMm" or jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise TypeError(
            f"leaf {path} has dtype {dtype}, which JAX would cast or reject; convert it first, or "
            "set jax_enable_x64"
        )
    return Leaf(path, tuple(leaf.shape), str(dtype), bool(getattr(leaf, "weak_type", False)))


def is_key(leaf: Any) -> bool:
    """Tell whether a leaf holds typed keys."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def to_store(leaf: Leaf, value: Any) -> np.ndarray | jax.Array:
    """Convert one leaf for storage: typed keys to their words, and local arrays to the host."""
    value = jax.random.key_data(value) if leaf.key_impl else value
    return value if _hosts.is_spread(value) else np.asarray(value)


def to_device(leaf: Leaf, value: np.ndarray | jax.Array, like: Any) -> jax.Array:
    """Place one leaf on the device of ``like``, with the weak type that it was saved with."""
    if isinstance(value, jax.Array) and _hosts.is_spread(value):
        return jax.random.wrap_key_data(value, impl=leaf.key_impl) if leaf.key_impl else value
    array = jax.device_put(value)  # jnp.asarray would compile a copy for every shape
    if leaf.key_impl:
        array = jax.random.wrap_key_data(array, impl=leaf.key_impl)
    if leaf.weak_type:
        array = convert_element_type_p.bind(
            array, new_dtype=array.dtype, weak_type=True, sharding=None
        )
    sharding = getattr(like, "sharding", None)
    # an uncommitted array moves freely between devices; committing it would pin it
    pinned = sharding is not None and getattr(like, "committed", True)
    return jax.device_put(array, sharding) if pinned else array


def digest(value: np.ndarray | jax.Array) -> str:
    """Return the SHA-256 of an array's bytes, on whichever devices they are."""
    value = np.ascontiguousarray(_hosts.gathered(value))
    return hashlib.sha256(value.reshape(-1).view(np.uint8).data).hexdigest()


def stored(value: Any) -> Any:
    """View dtypes that the store cannot hold (float8, int4) as bytes; return others unchanged."""
    is_native = np.dtype(value.dtype).isbuiltin == 1 or value.dtype == jnp.bfloat16
    return value if is_native else value.view(np.uint8)


def blank(leaf: Leaf, like: Any = None) -> np.ndarray | jax.ShapeDtypeStruct:
    """Return an empty host array to read a leaf into, or the form of a leaf over processes."""
    shape, dtype = leaf.shape, leaf.dtype
    if leaf.key_impl:
        words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=leaf.key_impl)))
        shape, dtype = (*leaf.shape, *words.shape), words.dtype
    sharding = getattr(like, "sharding", None)
    if sharding is None or sharding.is_fully_addressable:
        return np.empty(shape, jnp.dtype(dtype))
    if leaf.key_impl:  # the words of keys have one more axis, so the keys' sharding does not fit
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)


def key_digest(leaves: list[Leaf]) -> str:
    """Return the digest of the key of a run, which never changes; empty without a key."""
    return next((leaf.sha256 for leaf in leaves if leaf.path == "key" and leaf.key_impl), "")


def differences(old: dict, new: dict) -> str:
    """Describe the differences of two dicts, such as ``cores 2 -> 1, jax 0.10.2 -> 0.12.0``."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in names)


def write(folder: Path, leaves: list[Leaf], facts: dict, states: dict) -> None:
    """Write the manifest of a folder whose other files are complete.

    Args:
        folder: The folder of one step.
        leaves: The leaves of the run.
        facts: Facts that stay the same over the whole run.
        states: The states of the callbacks at this step, by name.
    """
    content = {
        "format": FORMAT,
        "leaves": [leaf._asdict() for leaf in leaves],
        "files": {name: file_digest(folder / name) for name in files(folder)},
        "facts": facts,
        "states": states,
        "environment": _environment.compute(),
    }
    content["sha256"] = hashlib.sha256(_text(content).encode()).hexdigest()
    (folder / NAME).write_bytes(_text(content).encode())


def read(folder: Path) -> dict:
    """Read the manifest of a checkpoint and check that none of its bytes has changed.

    Args:
        folder: The folder of one step.

    Returns:
        The manifest, with its leaves as ``Leaf``.

    Raises:
        CheckpointError: If the manifest is missing, damaged, or of a newer format.
    """
    try:
        text = (folder / NAME).read_bytes().decode()
        content = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: {NAME} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: {NAME} cannot be read ({error})") from error
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{folder}: {NAME} has format {version}, newer than format {FORMAT}, which this "
            "version of funcdl can read; upgrade funcdl"
        )
    unsigned = {name: content[name] for name in content if name != "sha256"} if version else {}
    signed = {**unsigned, "sha256": hashlib.sha256(_text(unsigned).encode()).hexdigest()}
    if _text(signed) != text:
        raise CheckpointError(f"{folder}: {NAME} does not match its own SHA-256")
    leaves = [Leaf(**{**leaf, "shape": tuple(leaf["shape"])}) for leaf in content["leaves"]]
    return {**content, "leaves": leaves}


def damaged_file(folder: Path, manifest: dict) -> tuple[str, str]:
    """Return the first damaged file and its problem, or two empty strings if all are intact."""
    for name, expected in manifest["files"].items():
        try:
            if file_digest(folder / name) != expected:
                return name, "does not match its SHA-256"
        except FileNotFoundError:
            return name, "is missing"
        except OSError as error:
            return name, f"cannot be read ({error.strerror})"
    return "", ""


def files(folder: Path) -> list[str]:
    """Return the relative POSIX paths of all files under a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(content: dict) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
