"""Tables of numbers from text files; errors name the line and the column."""

import csv as text
import io
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funcdl.data._checks import DataError
from funcdl.data._formats import file_bytes


class Table(NamedTuple):
    """A table of numbers.

    Attributes:
        x: ``(n, d)``, float64 on the host.
        names: The names of the d columns.
    """

    x: np.ndarray
    names: tuple[str, ...]


def csv(path: str | os.PathLike, *columns: str, delimiter: str = ",") -> Table:
    """Read a text file of numbers, one row per line, gzipped or not.

    The first line is a header if one of its fields is not a number. The columns of a file without a
    header are called ``"0"``, ``"1"`` and so on. Blank lines are skipped.

    Args:
        path: The file, in UTF-8.
        columns: The names of the columns to read, in this order; by default all columns. Columns
            that are not read may contain text.
        delimiter: The delimiter between fields.

    Returns:
        The table.

    Raises:
        FileNotFoundError: If the file does not exist.
        DataError: If the file is empty or damaged, a line has more or fewer fields than the first,
            or a value is missing, not finite or not a number. The message names the file, the line
            and the column.
        ValueError: If the file has no column of a given name; the message lists the columns.
    """
    path = Path(path)
    rows = _rows(path, delimiter)
    header = [] if all(_is_number(field) for field in rows[0][1]) else rows[0][1]
    names = [name.strip() for name in header] or [str(i) for i in range(len(rows[0][1]))]
    indices = _indices(path, names, columns)
    body = rows[1:] if header else rows
    if not body:
        raise DataError(f"{path} has a header and no rows")
    x = np.asarray([_numbers(path, line, fields, names, indices) for line, fields in body])
    return Table(x, tuple(names[i] for i in indices))


def _rows(path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
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
    if all(map(math.isfinite, values)):
        return values
    wrong = next(i for i in indices if not (_is_number(fields[i]) and _finite(fields[i])))
    field = fields[wrong].strip()
    problem = f"is {field!r}" if field else "is missing"
    if field:
        problem += ", which is not finite" if _is_number(field) else "; expected a number"
    raise DataError(f"{path}: line {line}, column {names[wrong]!r} {problem}")


def _number(field: str) -> float:
    if "_" in field:  # float() would accept underscores between digits
        raise ValueError(field)
    return float(field)


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return False
    return True


def _finite(field: str) -> bool:
    return math.isfinite(_number(field))
