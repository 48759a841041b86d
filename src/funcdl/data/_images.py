"""Folders of images: as arrays, or a batch at a time as a stream."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree
from funcdl.data._checks import DataError
from funcdl.data._shuffle import shuffled
from funcdl.data._stream import Stream, batch_size

_MODES = {"L": 1, "RGB": 3}
_CONVERTED = (*_MODES, "1", "LA", "P", "RGBA", "CMYK", "YCbCr")  # by Pillow without a surprise


class Images(NamedTuple):
    """Labeled images of one size.

    Attributes:
        x: ``(n, h, w, c)``, uint8; c is 1 or 3.
        labels: ``(n,)``, int32.
        classes: The name of each label.
    """

    x: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def image_folder(
    path: str | os.PathLike, *, resize: tuple[int, int] | None = None, mode: str | None = None
) -> Images:
    """Read a folder of images, in which each folder is a class.

    Labels number the folders in the order of their names, images are in the order of theirs.
    Every file must be a sound image; files whose name begins with a dot are passed over. Images
    are turned as their camera noted.

    Args:
        path: The folder of folders.
        resize: ``(height, width)`` that every image is resized to; ``None`` if all have one size.
        mode: ``"L"`` (gray) or ``"RGB"`` that every image is converted to; ``None`` if all have one
            of the two.

    Returns:
        ``(x, labels, classes)``; give ``Batches`` the transform ``data.unit_range``.

    Raises:
        ImportError: If Pillow is missing (extra ``images``).
        FileNotFoundError: If there is no such folder.
        DataError: If there are no folders, one is empty or holds another, a file is no sound image,
            or two images differ in size or mode: the files are named.
        ValueError: If ``resize`` or ``mode`` is none of these.
    """
    files = _files(Path(path), resize, mode)
    x = np.stack([_read(files, at) for at in range(len(files.paths))])
    return Images(x, files.labels, files.classes)


def image_stream(
    path: str | os.PathLike,
    *,
    size: int,
    key: Key[Array, ""] | None = None,
    resize: tuple[int, int] | None = None,
    mode: str | None = None,
    transform: Callable | None = None,
) -> Stream:
    """Read a folder of images a batch at a time, with no more than a batch in memory.

    Batches are those of ``Batches`` on ``image_folder``, of the same size and key, bit for bit.

    Args:
        path: The folder of folders, as ``image_folder`` takes it.
        size: Images in a batch.
        key: Draws the order, a new one each epoch; ``None`` is the stored order.
        resize: As of ``image_folder``.
        mode: As of ``image_folder``.
        transform: ``transform(batch) -> batch`` on the host, such as ``data.unit_range``; a batch
            is ``(x, labels)``.

    Returns:
        The stream, at any step at once.

    Raises:
        ImportError: If Pillow is missing (extra ``images``).
        FileNotFoundError: If there is no such folder.
        DataError: If there are no images; in the pass, if a file is no sound image, or differs
            from the first in size or mode.
        TypeError: If ``size`` is no integer, or ``key`` no typed key.
        ValueError: If ``size < 1``, or ``resize`` or ``mode`` is none of those allowed.
    """
    batch_size(size)
    if key is not None:
        check_key(key)
    files = _files(Path(path), resize, mode)
    n = len(files.paths)

    def read(step: int) -> Iterator[PyTree]:
        while True:
            epochs, places = np.divmod(step * size + np.arange(size), n)
            index = places if key is None else np.asarray(shuffled(key, epochs, places, n))
            batch = np.stack([_read(files, at) for at in index.tolist()]), files.labels[index]
            yield batch if transform is None else transform(batch)
            step += 1

    return Stream(read)


class _Files(NamedTuple):
    """The images of a folder, and what they are read as."""

    paths: list[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    resize: tuple[int, int] | None
    mode: str | None
    form: tuple  # (h, w, c), of the first


def _files(folder: Path, resize: tuple | None, mode: str | None) -> _Files:
    if mode is not None and mode not in _MODES:
        raise ValueError(f"mode is {mode!r}; expected 'L', 'RGB' or None")
    if resize is not None and (len(resize) != 2 or min(resize) < 1):
        raise ValueError(f"resize is {resize}; expected (height, width), both at least 1")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    folders = [found for found in _visible(folder) if found.is_dir()]
    if not folders:
        raise DataError(f"{folder} is empty: it holds no folders; expected one a class")
    paths, labels = [], []
    for label, found in enumerate(folders):
        inside = _visible(found)
        deeper = [path for path in inside if path.is_dir()]
        if not inside or deeper:
            what = f"holds a folder, {deeper[0].name}" if deeper else "is empty"
            raise DataError(f"{found} {what}; expected images of one class")
        paths += inside
        labels += [label] * len(inside)
    classes = tuple(found.name for found in folders)
    files = _Files(paths, np.asarray(labels, np.int32), classes, resize, mode, ())
    return files._replace(form=_image(files, 0).shape)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read(files: _Files, at: int) -> np.ndarray:
    """Read one image, ``(h, w, c)``, and compare it with the first."""
    image = _image(files, at)
    if image.shape != files.form:
        sizes = [" x ".join(map(str, form)) for form in (image.shape, files.form)]
        raise DataError(
            f"{files.paths[at]} is {sizes[0]} (height, width, channels), but {files.paths[0]} is "
            f"{sizes[1]}; resize=(height, width) and mode='RGB' make them alike"
        )
    return image


def _image(files: _Files, at: int) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('Pillow is missing: pip install "funcdl[images]"') from error
    path = files.paths[at]
    try:
        with Image.open(path) as image:
            image.verify()  # checksums; it cannot be read after
        with Image.open(path) as image:
            allowed = _MODES if files.mode is None else _CONVERTED
            if image.mode not in allowed or getattr(image, "n_frames", 1) > 1:
                frames = f" of {image.n_frames} frames" if image.mode in allowed else ""
                raise DataError(
                    f"{path} has mode {image.mode}{frames}; expected {' or '.join(allowed)}"
                    + (", or mode='RGB', which converts more" if files.mode is None else "")
                )
            image = ImageOps.exif_transpose(image)
            if files.mode is not None:
                image = image.convert(files.mode)
            if files.resize is not None:
                image = image.resize(files.resize[::-1], Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises a class of each decoder's own
        raise DataError(f"{path} is no sound image: {error}") from error
    return array[..., None] if array.ndim == 2 else array
