"""Tables of numbers from text files; errors name the line and the column."""

import csv as text
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funcdl.data._checks import DataError
from funcdl.data._formats import file_bytes

EXACT = 2.0**53  # float64 holds all integers up to this one


class Table(NamedTuple):
    """A table of numbers.

    Attributes:
        x: ``(n, d)``, float64 on the host.
        names: The names of the d columns.
    """

    x: np.ndarray
    names: tuple[str, ...]


def csv(
    path: str | os.PathLike,
    *columns: str,
    delimiter: str = ",",
    header: bool | Sequence[str] | None = None,
) -> Table:
    """Read a text file of numbers, one row per line, gzipped or not.

    Blank lines are skipped.

    Args:
        path: The file, in UTF-8.
        columns: The names of the columns to read, in this order; by default all columns. Columns
            that are not read may contain text.
        delimiter: The delimiter between fields.
        header: ``True`` if the first line holds the names of the columns; ``False`` if it is data,
            and the columns are called ``"0"``, ``"1"`` and so on; or the names of the columns of a
            file without a header. ``None`` accepts only files whose first line can be read in one
            way: text in all fields is a header, and numbers in all fields are data, unless they
            look like the names of columns (0, 1, 2, ..., or integers above decimal numbers).

    Returns:
        The table.

    Raises:
        FileNotFoundError: If the file does not exist.
        DataError: If the file is empty or damaged, ``header`` is ``None`` and the first line may be
            a header or data, a line has more or fewer fields than the first, or a value is missing,
            not finite, not a number, or an integer that float64 would round. The message names the
            file, the line and the column.
        TypeError: If ``header`` is of another type.
        ValueError: If the file has no column of a given name, or ``header`` has more or fewer names
            than the file has columns; the message lists the columns.
    """
    path = Path(path)
    rows = _rows(path, delimiter)
    names, body = _headed(path, rows, columns, header)
    indices = _indices(path, names, columns)
    if not body:
        raise DataError(f"{path} has a header and no rows")
    x = np.asarray([_numbers(path, line, fields, names, indices) for line, fields in body])
    return Table(x, tuple(names[i] for i in indices))


_Rows = list[tuple[int, list[str]]]  # the number of each line, and its fields


def _headed(
    path: Path, rows: _Rows, columns: tuple[str, ...], header: bool | Sequence[str] | None
) -> tuple[list[str], _Rows]:
    """Return the names of the columns, and the rows without the header."""
    first = [field.strip() for field in rows[0][1]]
    numbered = [str(i) for i in range(len(first))]
    if header is None:
        header = _has_header(path, rows, columns)
    if isinstance(header, (bool, np.bool_)):
        return (first, rows[1:]) if header else (numbered, rows)
    is_list = isinstance(header, Sequence) and not isinstance(header, str)
    if not is_list or not all(isinstance(name, str) for name in header):
        raise TypeError(f"header is {header!r}; expected True, False, or a list of names")
    if len(header) != len(first):
        raise ValueError(
            f"header has {len(header)} names, {list(header)}, but {path} has {len(first)} columns; "
            f"its first line is {first}"
        )
    return list(header), rows


def _has_header(path: Path, rows: _Rows, columns: tuple[str, ...]) -> bool:
    """Decide whether the first line is a header, if there is only one way to read it."""
    first = [field.strip() for field in rows[0][1]]
    numbered = [str(i) for i in range(len(first))]
    possible = [all(c in names for c in columns) for names in (first, numbered)]
    if columns and possible != [True, True] and any(possible):
        return possible[0]  # only one of the two has these columns
    kinds = {_kind(field) for field in first if field}
    if kinds == {"name"}:
        return True
    if kinds == {"number"} and not _looks_like_names(first, rows[1:]):
        return False
    raise DataError(
        f"{path}: line {rows[0][0]} may be a header or data; with header=True, the columns are "
        f"{first} and there are {len(rows) - 1} rows; with header=False, there are {len(rows)} "
        f"rows, the first of which is {first}; pass header=True, False, or the names of the columns"
    )


def _kind(field: str) -> str:
    if _is_number(field):
        return "number"
    return "missing" if field.lower() in _MISSING else "name"


_MISSING = {"na", "n/a", "#n/a", "null", "none", "nil", "missing", "?", "-", "--", "."}


def _looks_like_names(first: list[str], body: _Rows) -> bool:
    """Tell whether numbers in the first line may be names, as other programs write them."""
    if not body or not all(map(_is_integer, first)) or len(set(first)) < len(first):
        return False
    if len(first) > 1 and first == [str(i) for i in range(len(first))]:
        return True
    is_decimal = lambda field: _is_number(field) and not _is_integer(field) and _is_finite(field)
    return any(all(map(is_decimal, column)) for column in zip(*(fields for _, fields in body)))


def _is_integer(field: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", field.strip()) is not None


def _rows(path: Path, delimiter: str) -> _Rows:
    """Read the line number and the fields of every line that is not blank."""
    content = file_bytes(path)
    try:
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} is invalid") from None
    reader = text.reader(lines, delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, fields) for fields in reader if any(map(str.strip, fields))]
    except text.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is damaged: {error}") from None
    if not rows:
        raise DataError(f"{path} is empty: no line has a value")
    first, expected = rows[0][0], len(rows[0][1])
    for line, fields in rows:
        if len(fields) != expected:
            raise DataError(
                f"{path}: line {line} has {len(fields)} fields; expected {expected}, as in line "
                f"{first}"
            )
    return rows


def _indices(path: Path, names: list[str], columns: tuple[str, ...]) -> list[int]:
    """Find the indices of the requested columns."""
    wanted = columns or names
    for name in wanted:
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}; it holds {names}")
        if names.count(name) > 1:
            raise DataError(f"{path}: {names.count(name)} columns have the name {name!r}")
        if not name:
            raise DataError(
                f"{path}: column {names.index(name) + 1} has no name (it may be a row index); "
                f"choose columns: csv(path, {', '.join(repr(n) for n in names if n)})"
            )
    return [names.index(name) for name in wanted]


def _numbers(path: Path, line: int, fields: list[str], names: list, indices: list) -> list[float]:
    try:
        values = [_number(fields[i]) for i in indices]
    except ValueError:
        values = [math.nan]
    if all(math.isfinite(x) and abs(x) < EXACT for x in values):
        return values
    for i in indices:
        problem = _problem(fields[i].strip())
        if problem:
            raise DataError(f"{path}: line {line}, column {names[i]!r} {problem}")
    return values


def _problem(field: str) -> str:
    """Describe the problem of a field; return an empty text for a sound one."""
    if not field:
        return "is missing"
    if not _is_number(field):
        return f"is {field!r}; expected a number"
    if not math.isfinite(_number(field)):
        return f"is {field!r}, which is not finite"
    if _is_integer(field) and int(field) != int(float(field)):
        return f"is {field!r}, an integer that float64 would round to {int(float(field))}"
    return ""


def _number(field: str) -> float:
    if "_" in field:  # float() would accept underscores between digits
        raise ValueError(field)
    return float(field)


def _is_finite(field: str) -> bool:
    return math.isfinite(_number(field))


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return False
    return True
