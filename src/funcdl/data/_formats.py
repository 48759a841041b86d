"""Readers of public formats; what is damaged is refused by name."""

import gzip
import math
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from funcdl.data._checks import DataError

_IDX_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx(path: str | os.PathLike) -> np.ndarray:
    """Read an IDX file, the format of MNIST, gzipped or not.

    Args:
        path: The file.

    Returns:
        The array, of the dtype and shape that the header tells.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is empty, truncated, no gzip though called ``.gz``, or header and length
            disagree.

    Source: the format's definition on Y. LeCun's MNIST page.
    """
    path = Path(path)
    raw = file_bytes(path)
    if len(raw) < 4 or raw[0] or raw[1] or raw[2] not in _IDX_DTYPES:
        codes = ", ".join(f"{code:02x}" for code in _IDX_DTYPES)
        raise DataError(
            f"{path}: magic number {raw[:4].hex(' ')} found; expected 00 00, a type code of "
            f"{codes}, and the number of axes"
        )
    dtype, axes = np.dtype(_IDX_DTYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], ">i4"))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(shape) != axes or len(raw) != expected:
        raise DataError(
            f"{path}: {len(raw):,} bytes found; expected {expected:,} by its header, shape {shape} "
            f"of {dtype.name}"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def npy(path: str | os.PathLike) -> np.ndarray:
    """Read a ``.npy`` file; nothing is unpickled.

    Args:
        path: The file.

    Returns:
        The array.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is empty or damaged.
        TypeError: If it holds objects.
    """
    return _numpy(Path(path))


def npz(path: str | os.PathLike, *names: str) -> dict[str, np.ndarray] | tuple[np.ndarray, ...]:
    """Read a ``.npz`` file; nothing is unpickled, checksums are verified.

    Args:
        path: The file.
        names: Which arrays, in this order; all as a dict if none is named.

    Returns:
        The arrays.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is empty or damaged.
        TypeError: If it holds objects.
        ValueError: If a name is missing; those present are listed.
    """
    path = Path(path)
    found = _numpy(path)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path} has no array {missing[0]!r}; it holds {sorted(found)}")
    return tuple(found[name] for name in names) if names else found


def _numpy(path: Path):
    if path.stat().st_size == 0:  # raises FileNotFoundError by itself
        raise DataError(f"{path} is empty: 0 bytes")
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    except ValueError as error:
        if "pickle" in str(error) and "Object arrays" in str(error):
            raise TypeError(f"{path} holds objects; they would need pickle, never read") from None
        raise DataError(f"{path} is damaged: {error}") from error


def file_bytes(path: Path) -> bytes:
    """Read a file, unpacked if it is gzip.

    Raises:
        DataError: If it is empty or damaged.
    """  # noqa: DOC201
    raw = path.read_bytes()
    if not raw:
        raise DataError(f"{path} is empty: 0 bytes")
    if path.suffix != ".gz":
        return raw
    if raw[:2] != b"\x1f\x8b":
        raise DataError(f"{path} is called .gz but is not gzip: it starts with {raw[:4].hex(' ')}")
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error
