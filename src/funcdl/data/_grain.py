"""Grain's data sets as streams with an exact position."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from funcdl._check import at_least
from funcdl._typing import PyTree
from funcdl.data._checks import DataError
from funcdl.data._stream import Stream


def from_grain(dataset, *, positions: str | os.PathLike | None = None, every: int = 100) -> Stream:
    """Read a data set of grain, whose elements are batches, as a stream.

    A ``MapDataset`` is read by index, so it is at any step at once. An ``IterDataset`` or a
    ``DataLoader`` reads again what comes before the step; with ``positions`` it notes its state
    every so many steps, and reads again only from the last one before. A position depends on the
    data set alone, so a folder of positions is a cache: it may be emptied, and belongs to one data
    set.

    The stream ends where the data set does; ``dataset.repeat()`` goes on.

    Args:
        dataset: ``grain.MapDataset``, ``grain.IterDataset`` or ``grain.DataLoader``.
        positions: Folder for the states of an iterator, one file a position.
        every: Steps between two of them.

    Returns:
        The stream; its step is the number of batches before.

    Raises:
        ImportError: If grain is missing (extra ``grain``).
        TypeError: If ``dataset`` is none of the three; an iterator has no beginning to return to.
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


def _indexed(dataset, start: int) -> Iterator[PyTree]:
    for step in itertools.takewhile(lambda step: step < len(dataset), itertools.count(start)):
        batch = dataset[step]
        if batch is None:
            raise DataError(
                f"the grain data set has no element {step}, it was filtered out, so that indices "
                "are not steps; give from_grain dataset.to_iter_dataset()"
            )
        yield batch


def _replayed(dataset, start: int, folder: Path | None, every: int) -> Iterator[PyTree]:
    """Restore the nearest position, skip to the step, and note positions on the way."""
    iterator = iter(dataset)
    try:
        for step in itertools.count(_restore(iterator, start, folder)):
            if folder is not None and step and step % every == 0:
                _note(iterator, step, folder)
            batch = next(iterator, _END)
            if batch is _END:
                return
            if step >= start:
                yield batch
    finally:
        getattr(iterator, "close", lambda: None)()  # its threads


_END = object()


def _restore(iterator, start: int, folder: Path | None) -> int:
    """Set the state of the last position noted up to a step, and tell which step that is."""
    noted = [] if folder is None else [int(path.stem) for path in folder.glob("[0-9]*.json")]
    step = max((step for step in noted if step <= start), default=0)
    if step:
        path = folder / f"{step}.json"
        try:
            state = json.loads(path.read_text())
            iterator.set_state(state.encode() if isinstance(state, str) else state)
        except Exception as error:  # whatever grain makes of another data set's state
            raise DataError(
                f"{path} is no position of this data set: {error}; empty the folder"
            ) from error
    return step


def _note(iterator, step: int, folder: Path) -> None:
    path, state = folder / f"{step}.json", iterator.get_state()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(state.decode() if isinstance(state, bytes) else state))
        draft.replace(path)
