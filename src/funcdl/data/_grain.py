"""Grain data sets as streams with an exact position."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from funcdl._check import at_least
from funcdl._typing import PyTree
from funcdl.data._checks import DataError
from funcdl.data._stream import Stream


def from_grain(
    dataset: Any, *, positions: str | os.PathLike | None = None, every: int = 100
) -> Stream:
    """Read a Grain data set, whose elements are batches, as a stream.

    A ``MapDataset`` is read by index, so it can start at any step at once. An ``IterDataset`` or a
    ``DataLoader`` has to read the batches before the step again. With ``positions``, it saves its
    state every ``every`` steps and only reads again from the last saved state. A position depends
    only on the data set, so a folder of positions is a cache: it may be emptied, and it must not be
    shared by several data sets.

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
    return Stream(lambda step: _replayed(dataset, step, folder, every))


def _indexed(dataset: Any, start: int) -> Iterator[PyTree]:
    for step in itertools.takewhile(lambda step: step < len(dataset), itertools.count(start)):
        batch = dataset[step]
        if batch is None:
            raise DataError(
                f"the grain data set has no element {step}: it was filtered out, so its indices "
                "are not steps; pass dataset.to_iter_dataset() to from_grain"
            )
        yield batch


def _replayed(dataset: Any, start: int, folder: Path | None, every: int) -> Iterator[PyTree]:
    """Restore the nearest position, skip to the step, and save positions on the way."""
    iterator = iter(dataset)
    try:
        for step in itertools.count(_restore(iterator, start, folder)):
            if folder is not None and step and step % every == 0:
                _save(iterator, step, folder)
            batch = next(iterator, _END)
            if batch is _END:
                return
            if step >= start:
                yield batch
    finally:
        getattr(iterator, "close", lambda: None)()  # ends the threads of the iterator


_END = object()


def _restore(iterator: Any, start: int, folder: Path | None) -> int:
    """Restore the last position saved up to a step, and return the step of this position."""
    if folder is None:
        return 0
    saved = [int(path.stem) for path in folder.glob("[0-9]*.json")]
    step = max((step for step in saved if step <= start), default=0)
    if step:
        path = folder / f"{step}.json"
        try:
            state = json.loads(path.read_text())
            iterator.set_state(state.encode() if isinstance(state, str) else state)
        except Exception as error:  # grain raises many kinds of errors for a foreign state
            raise DataError(
                f"{path} is not a position of this data set: {error}; empty the folder"
            ) from error
    return step


def _save(iterator: Any, step: int, folder: Path) -> None:
    path, state = folder / f"{step}.json", iterator.get_state()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(state.decode() if isinstance(state, bytes) else state))
        draft.replace(path)
