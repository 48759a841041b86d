"""Tables of numbers from text files; what is no number is refused by line and column."""

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
        names: Of the d columns.
    """

    x: np.ndarray
    names: tuple[str, ...]


def csv(path: str | os.PathLike, *columns: str, delimiter: str = ",") -> Table:
    """Read a text file of numbers, a row a line, gzipped or not.

    The first line is a header if any of its fields is no number; columns of a file without one are
    called ``"0"``, ``"1"`` and so on. Blank lines are skipped.

    Args:
        path: The file, in UTF-8.
        columns: Which, in this order; all if none is named. What is not read may be text.
        delimiter: Between the fields.

    Returns:
        The table.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is empty or damaged, a line has more or fewer fields than the first, or a
            value is missing, not finite or no number: file, line and column are named.
        ValueError: If it has no column of a name; those present are listed.
    """
    path = Path(path)
    rows = _rows(path, delimiter)
    header = [] if all(_is_number(field) for field in rows[0][1]) else rows[0][1]
    names = [name.strip() for name in header] or [str(i) for i in range(len(rows[0][1]))]
    places = _places(path, names, columns)
    body = rows[1:] if header else rows
    if not body:
        raise DataError(f"{path} has a header and no rows")
    x = np.asarray([_numbers(path, line, fields, names, places) for line, fields in body])
    return Table(x, tuple(names[at] for at in places))


def _rows(path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Read the fields of every line that has some, with its number."""
    try:
        lines = io.StringIO(file_bytes(path).decode("utf-8-sig"), newline="")
        reader = text.reader(lines, delimiter=delimiter, strict=True)
        rows = [(reader.line_num, fields) for fields in reader if any(map(str.strip, fields))]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: byte {error.start}") from None
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


def _places(path: Path, names: list[str], columns: tuple[str, ...]) -> list[int]:
    """Find the columns that are asked for."""
    wanted = columns or names
    for name in wanted:
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}; it holds {names}")
        if names.count(name) > 1:
            raise DataError(f"{path}: {names.count(name)} columns have the name {name!r}")
        if not name:
            raise DataError(
                f"{path}: column {names.index(name) + 1} has no name, as an index of rows has; "
                f"choose columns: csv(path, {', '.join(repr(n) for n in names if n)})"
            )
    return [names.index(name) for name in wanted]


def _numbers(path: Path, line: int, fields: list[str], names: list, places: list) -> list[float]:
    try:
        values = [_number(fields[at]) for at in places]
    except ValueError:
        values = [math.nan]
    if all(map(math.isfinite, values)):
        return values
    at = next(at for at in places if not (_is_number(fields[at]) and _finite(fields[at])))
    field = fields[at].strip()
    what = f"is {field!r}" if field else "is missing"
    what += ", which is not finite" if _is_number(field) else "; expected a number" if field else ""
    raise DataError(f"{path}: line {line}, column {names[at]!r} {what}")


def _number(field: str) -> float:
    if "_" in field:  # which float reads as a separator of thousands
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
