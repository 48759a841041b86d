"""The folder of one step: written under a draft name, verified and renamed; orbax stores arrays."""

import contextlib
import errno
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from funcdl.train._checkpoints import manifest as _manifest
from funcdl.train._checkpoints import processes as _hosts
from funcdl.train._checkpoints.manifest import CheckpointError, Leaf

_LOG = logging.getLogger("funcdl")
_ARRAYS = "arrays"  # the subfolder that orbax writes, next to the manifest


def write(target: Path, leaves: list[Leaf], values: list, facts: dict, states: dict) -> None:
    """Write a draft next to the target, read it back, flush it, and only then rename it.

    All processes write and read their parts of the arrays; the first process does everything else.
    """
    draft = target.with_name(f"{target.name}.unfinished-{_hosts.agreed(os.getpid())}")
    if _hosts.leads():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    _hosts.wait("a draft")
    try:
        arrays = {leaf.path: _manifest.stored(v) for leaf, v in zip(leaves, values) if v.size}
        if arrays:
            _write(draft / _ARRAYS, arrays)
        if _hosts.leads():
            _manifest.write(draft, leaves, facts, states)
        _hosts.wait("a manifest")
        load(draft, verified(draft)["leaves"], values)
        if _hosts.leads():
            _publish(draft, target)
    finally:
        _hosts.wait("a checkpoint")
        if _hosts.leads():
            shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, target: Path) -> None:
    _flush(draft)
    if target.exists():
        _LOG.warning("%s is damaged; it is kept as %s", target, _put_aside(target).name)
    draft.rename(target)
    _flush_one(target.parent)


def verified(folder: Path) -> dict:
    """Return the manifest of a checkpoint after comparing all of its files with their digests."""
    manifest = _manifest.read(folder)
    name, problem = _manifest.damaged_file(folder, manifest)
    if not name:
        return manifest
    damaged = _damaged_leaves(folder, manifest["leaves"])
    more = " and more" * (len(damaged) > 5)
    which = f"leaf {', '.join(damaged[:5])}{more} is damaged: " if damaged else ""
    raise CheckpointError(f"{folder}: {which}{name} {problem}")


def _damaged_leaves(folder: Path, leaves: list[Leaf]) -> list[str]:
    """Return the paths of the damaged leaves.

    The leaves are read one by one with TensorStore, because orbax stops at the first damaged one.
    """
    try:
        import tensorstore as ts
    except ImportError:
        return []
    base = {"driver": "ocdbt", "base": (folder / _ARRAYS / "state").absolute().as_uri() + "/"}
    damaged = []
    for leaf in leaves:
        spec = {"driver": "zarr3", "kvstore": {**base, "path": f"{leaf.path}/"}}
        blank = np.asarray(_manifest.blank(leaf))
        try:
            value = ts.open(spec, read=True).result().read().result() if blank.size else blank
            is_intact = _manifest.digest(value) == leaf.sha256
        except Exception:  # TensorStore raises many kinds of exceptions for damaged bytes
            is_intact = False
        if not is_intact:
            damaged.append(leaf.path)
    return damaged


def load(folder: Path, leaves: list[Leaf], likes: list) -> list:
    """Return the arrays of all leaves after comparing each with its SHA-256.

    An array is on the host, unless its counterpart in ``likes`` spans several processes.
    """
    blanks: list[Any] = [_manifest.blank(leaf, like) for leaf, like in zip(leaves, likes)]
    arrays = {leaf.path: _manifest.stored(b) for leaf, b in zip(leaves, blanks) if b.size}
    read = _read(folder / _ARRAYS, arrays) if arrays else {}  # orbax refuses zero-size arrays
    values = [read[leaf.path].view(b.dtype) if b.size else b for leaf, b in zip(leaves, blanks)]
    wrong = [leaf.path for leaf, v in zip(leaves, values) if _manifest.digest(v) != leaf.sha256]
    if wrong:
        raise CheckpointError(f"{folder}: leaf {', '.join(wrong)} does not match its SHA-256")
    return values


def _put_aside(target: Path) -> Path:
    names = (f"{target.name}.damaged{end}" for end in ("", *(f"-{i}" for i in range(2, 10**6))))
    free = next(path for name in names if not (path := target.with_name(name)).exists())
    return target.rename(free)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(folder: Path, arrays: dict) -> None:
    with _orbax() as ocp:
        try:
            ocp.save(str(folder.absolute()), arrays)
        except OSError:
            raise
        except Exception as error:  # TensorStore reports a full disk as a pages-long ValueError
            raise OSError(errno.EIO, _first_line(error)) from error


def _read(folder: Path, like: dict) -> dict:
    with _orbax() as ocp:
        try:
            return ocp.load(str(folder.absolute()), like)
        except Exception as error:
            message = f"{folder.parent}: orbax cannot read the arrays: {_first_line(error)}"
            raise CheckpointError(message) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Import orbax and silence its warnings and logged tracebacks during one call."""
    log = logging.getLogger("absl")
    before = log.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.disabled = True
        try:
            from orbax.checkpoint import v1 as ocp  # an extra, whose import takes two seconds
        except ImportError as error:
            log.disabled = before
            raise ImportError('checkpoints need orbax: pip install "funcdl[checkpoint]"') from error
        try:
            context = ocp.Context()
            context.array.saving.use_compression = False  # trained weights do not compress
            with context:
                yield ocp
        finally:
            log.disabled = before
