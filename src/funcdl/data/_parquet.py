"""Parquet files: as a table, or row group by row group as a stream."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree
from funcdl.data._checks import DataError
from funcdl.data._csv import Table
from funcdl.data._shuffle import shuffled
from funcdl.data._stream import Stream, batch_size


def parquet(path: str | os.PathLike, *columns: str) -> Table:
    """Read the numbers of a Parquet file.

    Args:
        path: The file, or a folder of files ``*.parquet``, read in the order of their names.
        columns: Which, in this order; all if none is named. What is not read may be of any type.

    Returns:
        The table.

    Raises:
        ImportError: If pyarrow is missing (extra ``parquet``).
        FileNotFoundError: If there is no such file.
        DataError: If it is empty or damaged, or a value is missing or not finite: file, row (from
            0) and column are named.
        TypeError: If a column is not of numbers.
        ValueError: If it has no column of a name; those present are listed.
    """
    groups = _groups(Path(path), columns)
    return Table(np.concatenate([_read(group) for group in groups]), groups[0].names)


def parquet_stream(
    path: str | os.PathLike,
    *columns: str,
    size: int,
    key: Key[Array, ""] | None = None,
    transform: Callable | None = None,
) -> Stream:
    """Read a Parquet file in batches, with one or two row groups in memory.

    Batches run on over the end of the file, so that none is ragged and each row comes once an
    epoch. Without a key they are those of ``Batches(parquet(path).x, size)``, in stored order. With
    one, each epoch takes the row groups in an order of its own, and the rows of each in an order
    of their own: what lies in one row group stays together.

    Args:
        path: The file, or a folder of files ``*.parquet``, read in the order of their names.
        columns: Which, in this order; all if none is named.
        size: Rows in a batch.
        key: Draws the order.
        transform: ``transform(rows) -> batch`` on the host; rows are ``(size, d)``, float64.

    Returns:
        The stream. It seeks by the row counts in the files' footers and reads nothing twice.

    Raises:
        ImportError: If pyarrow is missing (extra ``parquet``).
        FileNotFoundError: If there is no such file.
        DataError: If it is empty or damaged; in the pass, if a value is missing or not finite.
        TypeError: If a column is not of numbers, ``size`` no integer, or ``key`` no typed key.
        ValueError: If it has no column of a name, or ``size < 1``.
    """
    batch_size(size)
    if key is not None:
        check_key(key)
    groups = _groups(Path(path), columns)

    def read(step: int) -> Iterator[PyTree]:
        for rows in _regrouped(_pieces(groups, step * size, key), size):
            yield rows if transform is None else transform(rows)

    return Stream(read)


class _Group(NamedTuple):
    """A row group: where it lies, and what is read of it."""

    path: Path
    index: int  # in its file
    first: int  # row of its file
    count: int
    names: tuple[str, ...]


def _groups(path: Path, columns: tuple[str, ...]) -> list[_Group]:
    """Look at the footers of all files, before a row is read."""
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"{path} is empty: it holds no *.parquet")
    groups, names = [], columns
    for part in paths:
        with _opened(part) as file:
            names = names or tuple(file.schema_arrow.names)
            _check_columns(part, file.schema_arrow, names)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        firsts = itertools.accumulate(counts, initial=0)
        groups += [_Group(part, i, f, n, names) for i, (f, n) in enumerate(zip(firsts, counts))]
    groups = [group for group in groups if group.count]
    if not groups:
        raise DataError(f"{path} has no rows")
    return groups


def _opened(path: Path):
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError('pyarrow is missing: pip install "funcdl[parquet]"') from error
    if path.stat().st_size == 0:  # raises FileNotFoundError by itself
        raise DataError(f"{path} is empty: 0 bytes")
    try:
        return ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged or no Parquet file: {error}") from error


def _check_columns(path: Path, schema, names: tuple[str, ...]) -> None:
    from pyarrow import types

    for name in names:
        found = schema.get_all_field_indices(name)
        if not found:
            raise ValueError(f"{path} has no column {name!r}; it holds {schema.names}")
        if len(found) > 1:
            raise DataError(f"{path}: {len(found)} columns have the name {name!r}")
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(
                f"{path}: column {name!r} is of {kind}; expected numbers, or choose columns: "
                f"parquet(path, {', '.join(map(repr, schema.names))})"
            )


def _read(group: _Group) -> np.ndarray:
    """Read the rows of a group, ``(count, d)``."""
    import pyarrow

    with _opened(group.path) as file:
        try:
            table = file.read_row_group(group.index, columns=list(group.names))
        except (pyarrow.ArrowException, OSError) as error:
            place = f"row group {group.index}, from row {group.first} on"
            raise DataError(f"{group.path}: {place}, is damaged: {error}") from error
    return np.stack([_numbers(group, name, table.column(name)) for name in group.names], axis=1)


def _numbers(group: _Group, name: str, column) -> np.ndarray:
    values = column.cast("float64", safe=False).to_numpy()  # what is missing becomes NaN
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = int(np.argmax(wrong))
        missing = not column[at].is_valid
        what = "is missing" if missing else f"is {values[at]}, which is not finite"
        raise DataError(f"{group.path}: row {group.first + at}, column {name!r} {what}")
    return values


def _pieces(groups: list[_Group], place: int, key) -> Iterator[np.ndarray]:
    """Read rows from a place on, for ever, a row group at a time."""
    first, place = divmod(place, sum(group.count for group in groups))
    for epoch in itertools.count(first):
        for at in _order(key, epoch, len(groups)).tolist():
            if place < groups[at].count:
                within = None if key is None else jax.random.fold_in(key, at)
                rows = _read(groups[at])
                yield rows[_order(within, epoch, len(rows))[place:]]
            place = max(0, place - groups[at].count)


def _order(key, epoch: int, n: int) -> np.ndarray:
    index = np.arange(n, dtype=np.int32)
    return index if key is None else np.asarray(shuffled(key, np.full(n, epoch), index, n))


def _regrouped(pieces: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Cut pieces of any length into batches."""
    rows = next(pieces)
    while True:
        while len(rows) < size:
            rows = np.concatenate([rows, next(pieces)])
        yield rows[:size]
        rows = rows[size:]
