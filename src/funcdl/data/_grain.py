"""Grain data sets as streams with an exact position."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from funcdl._check import at_least
from funcdl._typing import PyTree
from funcdl.data import _fingerprint
from funcdl.data._checks import DataError
from funcdl.data._stream import Stream


def from_grain(
    dataset: Any, *, positions: str | os.PathLike | None = None, every: int = 100
) -> Stream:
    """Read a Grain data set, whose elements are batches, as a stream.

    A ``MapDataset`` is read by index, so it can start at any step at once. An ``IterDataset`` or a
    ``DataLoader`` has to read the batches before the step again. With ``positions``, it saves its
    state every ``every`` steps and only reads again from the last saved state. A folder of
    positions is a cache, which may be emptied. It belongs to one data set: with each position a
    fingerprint of the transformations and of the next batch is saved, and a position is refused if
    the filter, the order or the source has changed since.

    The stream ends where the data set ends; use ``dataset.repeat()`` to continue.

    Args:
        dataset: A ``grain.MapDataset``, ``grain.IterDataset`` or ``grain.DataLoader``.
        positions: A folder for the states of an iterator, one file per position.
        every: The number of steps between two saved positions.

    Returns:
        The stream; its step is the number of batches that were read before.

    Raises:
        ImportError: If grain is missing (extra ``grain``).
        TypeError: If ``dataset`` is of another type, such as an iterator, which cannot start again.
        ValueError: If ``every < 1``.
        DataError: While it is read, if a position in the folder is not one of this data set.

    >>> import grain
    >>> stream = from_grain(grain.MapDataset.range(10).batch(2))
    >>> stream.seek(3)
    >>> next(iter(stream)).tolist()
    [6, 7]
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError('grain is missing: pip install "funcdl[grain]"') from error
    at_least("every", every, 1, "step")
    if isinstance(dataset, grain.MapDataset):
        return Stream(lambda step: _indexed(dataset, step))
    if not isinstance(dataset, (grain.IterDataset, grain.DataLoader)):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; expected a grain.MapDataset, IterDataset or "
            "DataLoader (not an iterator, which cannot start again)"
        )
    folder = None if positions is None else Path(positions)
    # described before it is read, because reading may leave traces in the user's objects
    pipeline = "" if folder is None else _fingerprint.of_pipeline(dataset)
    return Stream(lambda step: _replayed(dataset, step, _Folder(folder, pipeline, every)))


def _indexed(dataset: Any, start: int) -> Iterator[PyTree]:
    for step in itertools.takewhile(lambda step: step < len(dataset), itertools.count(start)):
        batch = dataset[step]
        if batch is None:
            raise DataError(
                f"the grain data set has no element {step}: it was filtered out, so its indices "
                "are not steps; pass dataset.to_iter_dataset() to from_grain"
            )
        yield batch


class _Folder(NamedTuple):
    """A folder of positions, the fingerprint of their pipeline, and the steps between two."""

    path: Path | None
    pipeline: str
    every: int


def _replayed(dataset: Any, start: int, positions: _Folder) -> Iterator[PyTree]:
    """Restore the nearest position, skip to the step, and save positions on the way."""
    folder, pipeline, every = positions
    iterator = iter(dataset)
    try:
        first, expected = _restore(iterator, start, folder, pipeline)
        for step in itertools.count(first):
            is_due = folder is not None and step and step % every == 0
            state = _state(iterator) if is_due else None
            batch = next(iterator, _END)
            if batch is _END:
                return
            if folder and step == first and expected and _fingerprint.of_batch(batch) != expected:
                raise DataError(_changed(folder / f"{step}.json", "the batch at this step"))
            if folder and is_due:
                _save(folder / f"{step}.json", _Position(state, pipeline, batch))
            if step >= start:
                yield batch
    finally:
        getattr(iterator, "close", lambda: None)()  # ends the threads of the iterator


_END = object()


class _Position(NamedTuple):
    """A position of an iterator, the fingerprint of its pipeline, and the next batch."""

    state: Any
    pipeline: str
    batch: PyTree


def _state(iterator: Any) -> Any:
    state = iterator.get_state()
    return json.loads(json.dumps(state.decode() if isinstance(state, bytes) else state))


def _restore(iterator: Any, start: int, folder: Path | None, pipeline: str) -> tuple[int, str]:
    """Restore the last position saved up to a step.

    Returns:
        The step of this position, and the fingerprint of the batch there.
    """
    saved = sorted(int(p.stem) for p in folder.glob("[0-9]*.json")) if folder else []
    if folder is None or not saved:
        return 0, ""
    step = max((step for step in saved if step <= start), default=0)
    path = folder / f"{step or saved[0]}.json"  # those of one folder belong together
    try:
        position = json.loads(path.read_text())
        is_same = position["pipeline"] == pipeline
        if is_same and step:
            state = position["state"]
            iterator.set_state(state.encode() if isinstance(state, str) else state)
    except Exception as error:  # grain raises many kinds of errors for a foreign state
        raise DataError(
            f"{path} is not a position of this data set: {error!r}; empty the folder"
        ) from error
    if not is_same:
        raise DataError(_changed(path, "a function, a setting or the source of the data set"))
    return (step, position["batch"]) if step else (0, "")


def _changed(path: Path, what: str) -> str:
    return (
        f"{path} is not a position of this data set: {what} is not what it was when the position "
        "was saved, so reading would go on at other records; restore the old definition, or empty "
        "the folder, and the batches before the step are read again"
    )


def _save(path: Path, position: _Position) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        batch = _fingerprint.of_batch(position.batch)
        draft.write_text(json.dumps(position._replace(batch=batch)._asdict()))
        draft.replace(path)
