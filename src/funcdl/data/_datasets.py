"""Data sets: one that ships with the package, and those in a folder of the user."""

import os
from importlib import resources
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from funcdl._check import array
from funcdl._typing import PyTree
from funcdl.data._checks import DataError, arrays
from funcdl.data._formats import idx, npz


class Split(NamedTuple):
    """Two parts of a data set; for labeled data, each is ``(x, labels)``."""

    train: PyTree
    test: PyTree


def digits() -> Split:
    """Return scikit-learn's digits: 8x8 images of handwritten digits, shipped with the package.

    Returns:
        1 437 training and 360 test examples (a fixed, stratified split): ``(x, labels)`` with
        ``x`` of shape ``(n, 8, 8, 1)``, float32 in 0..1, and int32 labels in 0..9.

    Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI repository (1998),
    its test part as scikit-learn distributes it; CC BY 4.0.

    >>> train, test = digits()
    >>> train[0].shape, test[1].shape
    ((1437, 8, 8, 1), (360,))
    """
    with resources.as_file(resources.files("funcdl.data") / "digits.npz") as path:
        images, labels = cast(tuple[np.ndarray, ...], npz(path, "images", "labels"))
    x = images[..., None].astype(np.float32) / 16
    x, y = arrays(x, labels, classes=10)
    return Split((x[:1437], y[:1437]), (x[1437:], y[1437:]))


def mnist(path: str | os.PathLike) -> Split:
    """Read MNIST, or a data set of the same form, from the four IDX files in a folder.

    Args:
        path: The folder with ``train-images-idx3-ubyte`` and so on, with or without ``.gz``.

    Returns:
        ``Split(train, test)``, both ``(x, labels)``. The images ``x`` stay uint8 with shape
        ``(n, 28, 28, 1)``; pass ``Batches`` the transform ``data.unit_range``.

    Raises:
        FileNotFoundError: If a file is missing; the message names it and the folder.
        DataError: If a file is damaged, or the numbers of images and labels differ.
    """
    folder = Path(path)

    def part(prefix: str) -> tuple:
        images = idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
        labels = idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
        if len(images) != len(labels):
            raise DataError(
                f"{folder}: {prefix!r} has {len(images)} images and {len(labels)} labels; expected "
                "equal numbers"
            )
        return arrays(images[..., None], labels, classes=10)

    return Split(part("train"), part("t10k"))


def unit_range(batch: tuple) -> tuple:
    """Map the uint8 images of a batch to float32 in 0..1, as a transform of batches.

    The bits are the same on the host, for a stream, and on the device, for ``Batches``.

    Args:
        batch: A batch ``(x, *targets)`` in which ``x`` is uint8.

    Returns:
        The same batch with float images.

    Raises:
        TypeError: If ``x`` is not uint8.
    """
    if not isinstance(batch, (tuple, list)) or not batch:
        raise TypeError(f"batch is a {type(batch).__name__}; expected a tuple (x, *targets)")
    x, *targets = batch
    array("x", x)
    if x.dtype != np.uint8:
        raise TypeError(
            f"images have dtype {x.dtype}; expected uint8; other images need no transform"
        )
    # XLA replaces a division by a constant by this product, which rounds differently
    return (x.astype(np.float32) * np.float32(1 / 255), *targets)


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"neither {name} nor {name}.gz is in {folder.resolve()}")
