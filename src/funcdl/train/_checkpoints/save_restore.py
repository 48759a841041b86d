"""Checkpoints that survive: a folder a step, never overwritten, verified before it is used."""

import contextlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

import jax

from funcdl import _environment
from funcdl._typing import PyTree
from funcdl.train._checkpoints import manifest as _manifest
from funcdl.train._checkpoints import processes as _hosts
from funcdl.train._checkpoints import step_folder as _store
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
    """Save a run as ``folder/<step>``, complete and verified or not at all.

    The new folder is written under another name, read back, compared, flushed to the disk and
    renamed; only then are older ones pruned. A sound checkpoint is never replaced, a damaged one of
    the same step is renamed. One run at a time writes to a folder; each of its processes
    (``jax.distributed``) calls this and writes its part.

    Args:
        folder: Where the checkpoints of one run lie.
        run: Any pytree of arrays; typed keys and all dtypes of jax are kept as they are.
        step: The name of the new folder; ``run.step`` if None.
        facts: What stays the same over the whole run, for JSON; None keeps what the folder has.
        keep: How many sound checkpoints up to this one stay; None keeps all.

    Returns:
        The folder of the step.

    Raises:
        CheckpointError: Another run is saved soundly under this step.
        ValueError: The facts differ from those in the folder.
        TypeError: A leaf is no array, or jax would cast it.
        OSError: The disk is full or read-only; the older checkpoints are intact.

    >>> import tempfile
    >>> runs = tempfile.mkdtemp()
    >>> save(runs, {"w": jax.numpy.arange(3.0)}, step=7).name
    '7'
    >>> restore(runs, {"w": jax.ShapeDtypeStruct((3,), "float32")})["w"].tolist()
    [0.0, 1.0, 2.0]
    """
    folder, step = Path(folder), int(run.step if step is None else step)
    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(f"step {step} must be at least 0 and keep {keep} at least 1, or None")
    leaves = _manifest.describe(run)
    values = [_manifest.to_store(leaf, x) for leaf, x in zip(leaves, jax.tree.leaves(run))]
    leaves = [leaf._replace(sha256=_manifest.digest(value)) for leaf, value in zip(leaves, values)]
    facts = _agreed_facts(folder, facts)
    target = folder / str(step)
    _hosts.wait("a save")
    try:
        if not _is_saved(target, leaves):
            _store.write(target, leaves, values, facts)
    except OSError as error:
        reason = f"{error.strerror or error}; step {step} is not saved, older ones are intact"
        raise OSError(error.errno, reason, str(target)) from error
    if _hosts.leads():
        _prune(folder, step, keep)
    return target


def restore(folder: str | os.PathLike, like: PyTree, *, step: int | None = None) -> PyTree:
    """Load the newest sound run, or that of one step.

    Structure, shapes and dtypes are compared before anything is loaded, nothing is cast; the
    SHA-256 of every leaf is compared after; weak types come back as they were saved. A
    checkpoint that is damaged or does not fit is logged and the one before it tried. What makes
    the run not bit-exact is logged.

    Args:
        folder: The folder given to ``save``.
        like: A tree of arrays or ``jax.ShapeDtypeStruct``, such as
            ``jax.eval_shape(program.init, key, batch)``.
        step: Only this step, without falling back.

    Returns:
        The run, with the structure and the shardings of ``like``.

    Raises:
        FileNotFoundError: Nothing was saved there.
        CheckpointError: Nothing that was saved there is sound and fits.

    >>> restore("nowhere", {})
    Traceback (most recent call last):
    FileNotFoundError: no checkpoint: the folder nowhere does not exist
    """
    wanted = _manifest.describe(like)

    def load(folder):
        manifest = _store.verified(folder)
        _check_fit(folder, manifest["leaves"], wanted)
        values = _store.load(folder, manifest["leaves"], jax.tree.leaves(like))
        changed = _manifest.differences(manifest["environment"], _environment.compute())
        if changed:
            _LOG.warning("%s: resuming is not bit-exact: %s", folder, changed)
        triples = zip(manifest["leaves"], values, jax.tree.leaves(like))
        return jax.tree.structure(like).unflatten([_manifest.to_device(*t) for t in triples])

    return _first_sound(Path(folder), step, load)


def latest(folder: str | os.PathLike) -> int | None:
    """Find the highest step whose files all match their SHA-256.

    Args:
        folder: The folder given to ``save``.

    Returns:
        The step, None where there is none.

    >>> latest("nowhere") is None
    True
    """
    try:
        return _first_sound(
            Path(folder), None, lambda found: _store.verified(found) and int(found.name)
        )
    except (FileNotFoundError, CheckpointError):
        return None


def read_facts(folder: str | os.PathLike, step: int | None = None) -> dict:
    """Read the facts that were saved with the newest sound run, or with that of one step.

    Args:
        folder: The folder given to ``save``.
        step: Only this step.

    Returns:
        The facts as JSON gives them back: tuples are lists, keys are strings.
    """
    return _first_sound(Path(folder), step, lambda found: _store.verified(found)["facts"])


def _first_sound(folder: Path, step: int | None, load):
    """Return ``load(folder / step)`` of the newest step that ``load`` does not refuse."""
    steps = _steps(folder)
    if step is not None and step in steps:
        return load(folder / str(step))
    if step is not None or not steps:
        raise _nothing(folder, step, steps)
    refusals = []
    for found in reversed(steps):
        try:
            return load(folder / str(found))
        except CheckpointError as refusal:
            refusals.append(str(refusal))
            _LOG.warning("checkpoint refused: %s", refusal)
    raise CheckpointError("no sound checkpoint that fits:\n" + "\n".join(refusals))


def _nothing(folder: Path, step: int | None, steps: list[int]) -> Exception:
    if steps:
        return FileNotFoundError(f"no checkpoint: {folder} has steps {steps}, not {step}")
    if not folder.is_dir():
        return FileNotFoundError(f"no checkpoint: the folder {folder} does not exist")
    unfinished = [path.name for path in _leftovers(folder)]
    if unfinished:
        return CheckpointError(f"{folder} holds only unfinished saves: {', '.join(unfinished)}")
    return FileNotFoundError(f"no checkpoint: the folder {folder} holds none")


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def _leftovers(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.unfinished-*"))


def _check_fit(folder: Path, saved: list[Leaf], wanted: list[Leaf]) -> None:
    have, want = ({leaf.path: leaf for leaf in leaves} for leaves in (saved, wanted))
    for path in have:
        if path not in want:
            raise CheckpointError(f"{folder}: leaf {path} was saved, the program has no such leaf")
    for path, leaf in want.items():
        if path not in have:
            raise CheckpointError(f"{folder}: leaf {path} of the program was not saved")
        for field in ("dtype", "shape"):
            old, new = getattr(have[path], field), getattr(leaf, field)
            if old != new:
                raise CheckpointError(
                    f"{folder}: leaf {path} was saved with {field} {old}, the program has {new}"
                )


def _agreed_facts(folder: Path, facts: dict | None) -> dict:
    facts = None if facts is None else json.loads(json.dumps(facts, allow_nan=False))
    for step in reversed(_steps(folder)):
        with contextlib.suppress(CheckpointError):
            before = _manifest.read(folder / str(step))["facts"]
            if facts is None:
                return before
            if before and before != facts:
                changed = _manifest.differences(before, facts)
                raise ValueError(f"{folder} holds another run ({changed}); give a new folder")
            break
    return facts or {}


def _is_saved(target: Path, leaves: list[Leaf]) -> bool:
    if not target.exists():
        return False
    try:
        saved = _store.verified(target)["leaves"]
    except CheckpointError:
        return False
    if saved == leaves:
        return True
    other = next((b.path for a, b in zip(saved, leaves) if a != b), "of another structure")
    raise CheckpointError(
        f"{target} holds a sound checkpoint of another run (leaf {other} differs); "
        "it is not overwritten, give a new folder"
    )


def _prune(folder: Path, step: int, keep: int | None) -> None:
    """Remove what killed saves left, and the older ones once ``keep`` sound ones are counted."""
    for leftover in _leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)
    if keep is None:
        return
    sound = 1  # the step just saved
    for older in reversed([s for s in _steps(folder) if s < step]):
        path = folder / str(older)
        with contextlib.suppress(CheckpointError, OSError):
            if sound < keep:
                sound += bool(_store.verified(path))
            else:
                _manifest.read(path)  # what this library did not write is not removed
                # a kill in the middle must not leave half a folder under the name of a step
                shutil.rmtree(path.rename(f"{path}.unfinished-pruning"), ignore_errors=True)
