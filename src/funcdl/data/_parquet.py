"""Parquet files, read as a table or as a stream of row groups."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree
from funcdl.data._checks import DataError
from funcdl.data._csv import EXACT, Table
from funcdl.data._shuffle import shuffled
from funcdl.data._stream import Stream, batch_size

# The stream is an endless sequence of rows, epoch after epoch. With a key, ``shuffled`` orders the
# row groups of an epoch and, with a key folded from the index of the group, the rows of each group.
# Both orders are functions of the key and the epoch alone, so the batch of a step does not depend
# on where reading began: to seek, whole groups are skipped by their row counts without being read.


def parquet(path: str | os.PathLike, *columns: str) -> Table:
    """Read the numbers of a Parquet file.

    Args:
        path: The file, or a folder of files ``*.parquet``, which are read in the order of their
            names.
        columns: The names of the columns to read, in this order; by default all columns. Columns
            that are not read may have any type.

    Returns:
        The table.

    Raises:
        ImportError: If pyarrow is missing (extra ``parquet``).
        FileNotFoundError: If the file does not exist.
        DataError: If the file is empty or damaged (pages with checksums are verified), the parts of
            a folder have different columns, or a value is missing, not finite, or an integer that
            float64 would round. The message names the file, the row (from 0) and the column.
        TypeError: If a column is not numeric.
        ValueError: If the file has no column of a given name; the message lists the columns.
    """
    groups = _groups(Path(path), columns)
    return Table(np.concatenate([_read(group) for group in groups]), groups[0].names)


def parquet_stream(
    path: str | os.PathLike,
    *columns: str,
    size: int,
    key: Key[Array, ""] | None = None,
    transform: Callable[[np.ndarray], PyTree] | None = None,
) -> Stream:
    """Read a Parquet file in batches, with one or two row groups in memory.

    Batches continue across the end of the file, so no batch is ragged and each row occurs once per
    epoch. Without a key, they are those of ``Batches(parquet(path).x, size)``, in stored order.
    With a key, each epoch draws an order of the row groups and an order of the rows in each group:
    rows of one row group stay together.

    Args:
        path: The file, or a folder of files ``*.parquet``, which are read in the order of their
            names.
        columns: The names of the columns to read, in this order; by default all columns.
        size: The number of rows in a batch.
        key: The key that draws the order, or ``None``.
        transform: A function ``transform(rows) -> batch`` on the host; the rows are ``(size, d)``,
            float64.

    Returns:
        The stream. It seeks with the row counts in the footers of the files and reads nothing
        twice.

    Raises:
        ImportError: If pyarrow is missing (extra ``parquet``).
        FileNotFoundError: If the file does not exist.
        DataError: If the file is empty or damaged, or the parts of a folder have different columns.
            During iteration, if a page is damaged, or a value is missing, not finite, or an integer
            that float64 would round.
        TypeError: If a column is not numeric, ``size`` is not an integer, or ``key`` is not a typed
            key.
        ValueError: If the file has no column of a given name, or ``size < 1``.
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
    """A row group: its position, and the columns to read.

    Attributes:
        path: The file.
        index: The index of the group in the file.
        first: The index of its first row in the file.
        count: The number of its rows.
        names: The names of the columns to read.
    """

    path: Path
    index: int
    first: int
    count: int
    names: tuple[str, ...]


def _groups(path: Path, columns: tuple[str, ...]) -> list[_Group]:
    """List the row groups of all files from their footers, without reading a row."""
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"{path} is empty: it holds no *.parquet")
    groups, names = [], columns
    for part in paths:
        with _opened(part) as file:
            names = names or tuple(file.schema_arrow.names)
            _check_columns(part, file.schema_arrow, names)
            extra = [] if columns else [n for n in file.schema_arrow.names if n not in names]
            if extra:
                raise DataError(
                    f"{part} has a column {extra[0]!r}, which {paths[0]} has not; choose columns: "
                    f"parquet(path, {', '.join(map(repr, names))})"
                )
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        firsts = itertools.accumulate(counts, initial=0)
        groups += [_Group(part, i, f, n, names) for i, (f, n) in enumerate(zip(firsts, counts))]
    groups = [group for group in groups if group.count]
    if not groups:
        raise DataError(f"{path} has no rows")
    return groups


def _opened(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError('pyarrow is missing: pip install "funcdl[parquet]"') from error
    if path.stat().st_size == 0:  # raises FileNotFoundError if the file does not exist
        raise DataError(f"{path} is empty: 0 bytes")
    try:
        return ParquetFile(path, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged or not a Parquet file: {error}") from error


def _check_columns(path: Path, schema: Any, names: tuple[str, ...]) -> None:
    from pyarrow import types

    for name in names:
        indices = schema.get_all_field_indices(name)
        if not indices:
            raise ValueError(f"{path} has no column {name!r}; it holds {schema.names}")
        if len(indices) > 1:
            raise DataError(f"{path}: {len(indices)} columns have the name {name!r}")
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(
                f"{path}: column {name!r} is of {kind}; expected numbers; choose columns with "
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


def _numbers(group: _Group, name: str, column: Any) -> np.ndarray:
    values = column.cast("float64", safe=False).to_numpy()  # missing values become NaN
    wrong = ~np.isfinite(values)
    large = np.flatnonzero(np.abs(values) >= EXACT) if _is_integer(column) else ()
    for i in large:  # only integers up to 2**53 are all exact
        number = column[int(i)].as_py()
        if number != int(values[i]):
            raise DataError(
                f"{group.path}: row {group.first + i}, column {name!r} is {number}, an integer "
                f"that float64 would round to {int(values[i])}"
            )
    if wrong.any():
        i = int(np.argmax(wrong))
        missing = not column[i].is_valid
        problem = "is missing" if missing else f"is {values[i]}, which is not finite"
        raise DataError(f"{group.path}: row {group.first + i}, column {name!r} {problem}")
    return values


def _is_integer(column: Any) -> bool:
    from pyarrow import types

    return types.is_integer(column.type)


def _pieces(groups: list[_Group], start: int, key: Key[Array, ""] | None) -> Iterator[np.ndarray]:
    """Read rows from a position on, endlessly, one row group at a time."""
    first, skip = divmod(start, sum(group.count for group in groups))
    for epoch in itertools.count(first):
        for i in _order(key, epoch, len(groups)).tolist():
            if skip < groups[i].count:
                key_rows = None if key is None else jax.random.fold_in(key, i)
                rows = _read(groups[i])
                yield rows[_order(key_rows, epoch, len(rows))[skip:]]
            skip = max(0, skip - groups[i].count)


def _order(key: Key[Array, ""] | None, epoch: int, n: int) -> np.ndarray:
    index = np.arange(n, dtype=np.int32)
    return index if key is None else np.asarray(shuffled(key, np.full(n, epoch), index, n))


def _regrouped(pieces: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Regroup pieces of any length into batches of ``size`` rows."""
    rows = next(pieces)
    while True:
        while len(rows) < size:
            rows = np.concatenate([rows, next(pieces)])
        yield rows[:size]
        rows = rows[size:]
