"""Readers of public formats; errors name the damaged file."""

import gzip
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from funcdl.data._checks import DataError

_IDX_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx(path: str | os.PathLike) -> np.ndarray:
    """Read an IDX file, the format of MNIST, gzipped or not.

    Args:
        path: The file.

    Returns:
        The array, with the dtype and the shape of the header.

    Raises:
        FileNotFoundError: If the file does not exist.
        DataError: If the file is empty or truncated, is named ``.gz`` but is not gzip, or if header
            and length disagree.

    Source: the definition of the format on Y. LeCun's MNIST page.
    """
    path = Path(path)
    raw = file_bytes(path)
    if len(raw) < 4 or raw[0] or raw[1] or raw[2] not in _IDX_DTYPES:
        codes = ", ".join(f"{code:02x}" for code in _IDX_DTYPES)
        raise DataError(
            f"{path}: the magic number is {raw[:4].hex(' ')}; expected 00 00, one of the type "
            f"codes {codes}, and the number of axes"
        )
    dtype, axes = np.dtype(_IDX_DTYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], ">i4"))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(shape) != axes or len(raw) != expected:
        raise DataError(
            f"{path}: the file has {len(raw):,} bytes; expected {expected:,} from its header, "
            f"which has shape {shape} of {dtype.name}"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def npy(path: str | os.PathLike) -> np.ndarray:
    """Read a ``.npy`` file; nothing is unpickled.

    Args:
        path: The file.

    Returns:
        The array.

    Raises:
        FileNotFoundError: If the file does not exist.
        DataError: If the file is empty or damaged, or a ``.npz`` file.
        TypeError: If the file contains Python objects.
    """
    array = _numpy(Path(path))
    if isinstance(array, dict):
        raise DataError(f"{path} is a .npz file with the arrays {sorted(array)}; use data.npz")
    return array


def npz(path: str | os.PathLike, *names: str) -> dict[str, np.ndarray] | tuple[np.ndarray, ...]:
    """Read a ``.npz`` file and verify its checksums; nothing is unpickled.

    Args:
        path: The file.
        names: The names of the arrays to return, in this order; without names, a dict of all arrays
            is returned.

    Returns:
        The arrays.

    Raises:
        FileNotFoundError: If the file does not exist.
        DataError: If the file is empty or damaged, or a ``.npy`` file.
        TypeError: If the file contains Python objects.
        ValueError: If a name is missing; the message lists the names in the file.
    """
    path = Path(path)
    arrays = _numpy(path)
    if not isinstance(arrays, dict):
        raise DataError(
            f"{path} is a .npy file, one array of shape {arrays.shape}; use data.npy to read it"
        )
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{path} has no array {missing[0]!r}; it holds {sorted(arrays)}")
    return tuple(arrays[name] for name in names) if names else arrays


def _numpy(path: Path) -> Any:
    if path.stat().st_size == 0:  # raises FileNotFoundError if the file does not exist
        raise DataError(f"{path} is empty: 0 bytes")
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    except ValueError as error:
        if "pickle" in str(error) and "Object arrays" in str(error):
            raise TypeError(
                f"{path} contains Python objects, which would need pickle; save numeric arrays "
                "instead"
            ) from None
        raise DataError(f"{path} is damaged: {error}") from error


def file_bytes(path: Path) -> bytes:
    """Read a file, and decompress it if its name ends in ``.gz``.

    Returns:
        The decompressed content.

    Raises:
        DataError: If the file is empty or damaged.
    """
    raw = path.read_bytes()
    if not raw:
        raise DataError(f"{path} is empty: 0 bytes")
    if path.suffix != ".gz":
        return raw
    if raw[:2] != b"\x1f\x8b":
        raise DataError(f"{path} is named .gz but is not gzip: it starts with {raw[:4].hex(' ')}")
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error
