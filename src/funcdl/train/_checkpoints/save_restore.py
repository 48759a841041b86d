"""Save and restore runs: one folder per step, never overwritten, and verified before use."""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from funcdl import _environment
from funcdl._check import integer
from funcdl._typing import PyTree
from funcdl.train._checkpoints import lock as _lock
from funcdl.train._checkpoints import manifest as _manifest
from funcdl.train._checkpoints import processes as _hosts
from funcdl.train._checkpoints import step_folder
from funcdl.train._checkpoints.manifest import CheckpointError, Leaf

_LOG = logging.getLogger("funcdl")


def save(
    folder: str | os.PathLike,
    run: PyTree,
    *,
    step: int | None = None,
    facts: dict | None = None,
    keep: int | None = 2,
) -> Path:
    """Save a run as ``folder/<step>``, either complete and verified or not at all.

    The new folder is written under another name, read back, compared, flushed to the disk and
    renamed; older folders are only pruned after that. An intact checkpoint is never replaced; a
    damaged one of the same step is renamed. A folder belongs to one run, which is known by its key,
    and only one process at a time can write to it. Each process of a run over several processes
    (``jax.distributed``) must call this function to write its part.

    Args:
        folder: The folder of the checkpoints of one run.
        run: Any pytree of arrays; typed keys and all dtypes of JAX are preserved.
        step: The name of the new folder; ``run.step`` if ``None``.
        facts: Facts that stay the same over the whole run, valid as JSON; ``None`` keeps those in
            the folder.
        keep: The number of intact checkpoints up to this one to keep; ``None`` keeps all.

    Returns:
        The folder of the step.

    Raises:
        CheckpointError: If the folder holds another run, or another process is writing to it.
        ValueError: If the facts differ from those in the folder.
        TypeError: If a leaf is not an array, or JAX would cast it.
        OSError: If the disk is full or read-only; the older checkpoints are intact.

    >>> import tempfile
    >>> runs = tempfile.mkdtemp()
    >>> save(runs, {"w": jax.numpy.arange(3.0)}, step=7).name
    '7'
    >>> restore(runs, {"w": jax.ShapeDtypeStruct((3,), "float32")})["w"].tolist()
    [0.0, 1.0, 2.0]
    """
    if step is None:
        if not hasattr(run, "step"):
            raise TypeError(
                f"run is a {type(run).__name__} without a field step; expected a train.Run, or "
                "save(folder, run, step=...)"
            )
        step = run.step
    folder, step = Path(folder), integer("step", step)
    if keep is not None:
        integer("keep", keep)
    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(
            f"step is {step} and keep is {keep}; expected step at least 0, and keep at least 1 or "
            "None"
        )
    return write(folder, run, step, facts, keep, {})


# A kill or a power cut at any moment must leave a folder in which every name that looks like a step
# is a complete checkpoint. Hence the order: write a draft, verify it, flush it, rename it (the one
# atomic action), and delete older steps last, each renamed first.
def write(
    folder: Path, run: PyTree, step: int, facts: dict | None, keep: int | None, states: dict
) -> Path:
    """Save a run as ``save`` does, with the states of the callbacks, which ``read_states`` reads.

    Returns:
        The folder of the step.
    """
    leaves, values = _stored(run)
    target = folder / str(step)
    try:
        with _lock.held(folder):
            facts = _agreed_facts(folder, facts)
            _check_key(folder, _manifest.key_digest(leaves))
            _hosts.wait("a save")
            if not _is_saved(target, leaves):
                step_folder.write(target, leaves, values, facts, states)
            if _hosts.leads():
                _prune(folder, step, keep)
    except OSError as error:
        reason = f"{error.strerror or error}; step {step} is not saved, older steps are intact"
        raise OSError(error.errno, reason, str(target)) from error
    return target


def restore(folder: str | os.PathLike, like: PyTree, *, step: int | None = None) -> PyTree:
    """Load the newest intact run, or that of one step.

    Structure, shapes and dtypes are compared before anything is loaded, and nothing is cast. The
    SHA-256 of every leaf is compared after loading. Weak types are restored. A checkpoint that is
    damaged or does not fit is logged, and the one before it is tried. A change of the environment,
    after which the run is not bit-exact, is logged.

    Args:
        folder: The folder passed to ``save``.
        like: A tree of arrays or ``jax.ShapeDtypeStruct``, such as
            ``jax.eval_shape(program.init, key, batch)``.
        step: Load only this step, without falling back to older ones.

    Returns:
        The run, with the structure and the shardings of ``like``.

    Raises:
        FileNotFoundError: If the folder contains no checkpoint.
        CheckpointError: If no checkpoint in the folder is intact and fits.

    >>> restore("nowhere", {})
    Traceback (most recent call last):
    FileNotFoundError: no checkpoint: the folder nowhere does not exist
    """
    wanted = _manifest.describe(like)

    def load(folder):
        manifest = step_folder.verified(folder)
        _check_fit(folder, manifest["leaves"], wanted)
        values = step_folder.load(folder, manifest["leaves"], jax.tree.leaves(like))
        changed = _manifest.differences(manifest["environment"], _environment.compute())
        if changed:
            _LOG.warning("%s: resuming is not bit-exact: %s", folder, changed)
        triples = zip(manifest["leaves"], values, jax.tree.leaves(like))
        return jax.tree.structure(like).unflatten([_manifest.to_device(*t) for t in triples])

    return _first_sound(Path(folder), step, load)


def latest(folder: str | os.PathLike) -> int | None:
    """Find the highest step whose files all match their SHA-256.

    Args:
        folder: The folder passed to ``save``.

    Returns:
        The step, or ``None`` if the folder contains no intact checkpoint.

    >>> latest("nowhere") is None
    True
    """

    def verified_step(path: Path) -> int:
        step_folder.verified(path)
        return int(path.name)

    try:
        return _first_sound(Path(folder), None, verified_step)
    except (FileNotFoundError, CheckpointError):
        return None


def read_facts(folder: str | os.PathLike, step: int | None = None) -> dict:
    """Read the facts that were saved with the newest intact run, or with that of one step.

    Args:
        folder: The folder passed to ``save``.
        step: Read only this step.

    Returns:
        The facts as they come back from JSON: tuples become lists, and keys become strings.
    """
    return _first_sound(Path(folder), step, lambda path: step_folder.verified(path)["facts"])


def read_states(folder: Path, step: int) -> dict:
    """Read the states of the callbacks at a step; empty without an intact checkpoint."""
    try:
        return step_folder.verified(folder / str(step)).get("states", {})
    except CheckpointError:
        return {}


def check_free(folder: Path, run: PyTree, facts: dict | None) -> None:
    """Check that a folder can take the checkpoints of a run, before the run takes a step.

    Raises:
        CheckpointError: If it holds another run, or steps that come after this run's step although
            the run was not restored from there.
        ValueError: If the facts differ from those in the folder.
    """
    newest = _newest_manifest(folder)
    if newest is None:
        return
    leaves, _ = _stored(run)
    try:
        _check_fit(folder, newest["leaves"], leaves)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; it holds another run, use a new folder") from None
    _agreed_facts(folder, facts)
    _check_key(folder, _manifest.key_digest(leaves))
    step = int(run.step)
    later = [other for other in _steps(folder) if other > step]
    if later and not _is_saved(folder / str(step), leaves):
        raise CheckpointError(
            f"{folder} holds the steps {later}, but this run is at step {step} and was not "
            "restored from there; continue with train.restore(folder, run), or use a new folder"
        )


def _stored(run: PyTree) -> tuple[list[Leaf], list]:
    """Return the leaves of a run with their digests, and their values for the store."""
    leaves = _manifest.describe(run)
    values = [_manifest.to_store(leaf, x) for leaf, x in zip(leaves, jax.tree.leaves(run))]
    digests = map(_manifest.digest, values)
    return [leaf._replace(sha256=digest) for leaf, digest in zip(leaves, digests)], values


def _check_key(folder: Path, key: str) -> None:
    """Refuse a folder whose newest intact checkpoint was saved by a run with another key."""
    newest = _newest_manifest(folder)
    saved = newest and _manifest.key_digest(newest["leaves"])
    if key and saved and key != saved:
        raise CheckpointError(
            f"{folder} holds another run: its steps {_steps(folder)} were saved with another "
            "run.key; use a new folder, or continue that run with train.restore(folder, run)"
        )


def _newest_manifest(folder: Path) -> dict | None:
    for step in reversed(_steps(folder)):
        with contextlib.suppress(CheckpointError):
            return _manifest.read(folder / str(step))
    return None


def _first_sound(folder: Path, step: int | None, load: Callable[[Path], Any]) -> Any:
    """Return ``load(folder / step)`` for the newest step that ``load`` accepts."""
    steps = _steps(folder)
    if step is not None and step in steps:
        return load(folder / str(step))
    if step is not None or not steps:
        raise _nothing(folder, step, steps)
    refusals = []
    for candidate in reversed(steps):
        try:
            return load(folder / str(candidate))
        except CheckpointError as refusal:
            refusals.append(str(refusal))
            _LOG.warning("checkpoint rejected: %s", refusal)
    raise CheckpointError("no intact checkpoint that fits:\n" + "\n".join(refusals))


def _nothing(folder: Path, step: int | None, steps: list[int]) -> Exception:
    if steps:
        return FileNotFoundError(f"no checkpoint: {folder} has steps {steps}, not {step}")
    if not folder.is_dir():
        return FileNotFoundError(f"no checkpoint: the folder {folder} does not exist")
    unfinished = [path.name for path in _leftovers(folder)]
    if unfinished:
        return CheckpointError(f"{folder} holds only unfinished saves: {', '.join(unfinished)}")
    return FileNotFoundError(f"no checkpoint: the folder {folder} contains no steps")


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def _leftovers(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.unfinished-*"))


def _check_fit(folder: Path, saved: list[Leaf], wanted: list[Leaf]) -> None:
    have, want = ({leaf.path: leaf for leaf in leaves} for leaves in (saved, wanted))
    for path in have:
        if path not in want:
            raise CheckpointError(
                f"{folder}: leaf {path} was saved, but the program has no such leaf"
            )
    for path, leaf in want.items():
        if path not in have:
            raise CheckpointError(f"{folder}: leaf {path} of the program was not saved")
        for field in ("dtype", "shape"):
            old, new = getattr(have[path], field), getattr(leaf, field)
            if old != new:
                raise CheckpointError(
                    f"{folder}: leaf {path} was saved with {field} {old}, but the program has {new}"
                )


def _agreed_facts(folder: Path, facts: dict | None) -> dict:
    facts = None if facts is None else json.loads(json.dumps(facts, allow_nan=False))
    newest = _newest_manifest(folder)
    before = newest["facts"] if newest else {}
    if facts is None:
        return before
    if before and before != facts:
        changed = _manifest.differences(before, facts)
        raise ValueError(f"{folder} holds another run ({changed}); use a new folder")
    return facts


def _is_saved(target: Path, leaves: list[Leaf]) -> bool:
    if not target.exists():
        return False
    try:
        saved = step_folder.verified(target)["leaves"]
    except CheckpointError:
        return False
    if saved == leaves:
        return True
    other = next((b.path for a, b in zip(saved, leaves) if a != b), "of another structure")
    raise CheckpointError(
        f"{target} holds an intact checkpoint of another run (leaf {other} differs), which is not "
        "overwritten; use a new folder"
    )


def _prune(folder: Path, step: int, keep: int | None) -> None:
    """Remove unfinished saves, and all checkpoints older than the newest ``keep`` intact ones."""
    for leftover in _leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)
    if keep is None:
        return
    sound = 1  # the step just saved
    for older in reversed([s for s in _steps(folder) if s < step]):
        path = folder / str(older)
        with contextlib.suppress(CheckpointError, OSError):
            if sound < keep:
                sound += bool(step_folder.verified(path))
            else:
                _manifest.read(path)  # raises for a folder that this library did not write
                # a kill in the middle must not leave half a folder under the name of a step
                shutil.rmtree(path.rename(f"{path}.unfinished-pruning"), ignore_errors=True)
