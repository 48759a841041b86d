"""Folders of images, read as arrays or as a stream of batches."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree
from funcdl.data._checks import DataError
from funcdl.data._shuffle import shuffled
from funcdl.data._stream import Stream, batch_size

_MODES = {"L": 1, "RGB": 3}
# modes that Pillow converts to L or RGB unambiguously, unlike modes of 16 or 32 bits per channel
_CONVERTED = (*_MODES, "1", "LA", "P", "RGBA", "CMYK", "YCbCr")


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
    path: str | os.PathLike,
    *,
    classes: Sequence[str] | None = None,
    resize: tuple[int, int] | None = None,
    mode: str | None = None,
) -> Images:
    """Read a folder of images with one subfolder per class.

    The images of a class are in the order of their names. Every file must be a valid image; files
    whose name begins with a dot are skipped. Images are rotated according to their EXIF
    orientation.

    A label means the same in two folders only if both have the same list of classes. Pass the
    classes of the training images to every other part, and store them with the run:
    ``train.checkpoint(folder, every=100, facts={"classes": images.classes})``, which rejects a
    folder whose run had other classes; ``train.read_facts(folder)["classes"]`` returns them.

    Args:
        path: The folder of the class folders.
        classes: The names of the classes in the order of their labels; a class without a folder has
            no images. ``None`` takes the names of the folders in their order.
        resize: The size ``(height, width)`` to which every image is resized; ``None`` if all images
            have the same size.
        mode: The mode to which every image is converted, ``"L"`` (gray) or ``"RGB"``; ``None`` if
            all images have the same of these two modes.

    Returns:
        ``(x, labels, classes)``; pass ``Batches`` the transform ``data.unit_range``.

    Raises:
        ImportError: If Pillow is missing (extra ``images``).
        FileNotFoundError: If the folder does not exist.
        DataError: If the folder has no subfolders, a subfolder is not one of ``classes``, is empty
            or contains a folder, a file is not a valid image, or two images differ in size or mode.
            The message names the files.
        TypeError: If ``classes`` is not a list of names.
        ValueError: If ``classes`` has a name twice, or ``resize`` or ``mode`` has another value.
    """
    files = _files(Path(path), classes, resize, mode)
    x = np.stack([_read(files, i) for i in range(len(files.paths))])
    return Images(x, files.labels, files.classes)


def image_stream(
    path: str | os.PathLike,
    *,
    size: int,
    key: Key[Array, ""] | None = None,
    classes: Sequence[str] | None = None,
    resize: tuple[int, int] | None = None,
    mode: str | None = None,
    transform: Callable[[PyTree], PyTree] | None = None,
) -> Stream:
    """Read a folder of images batch by batch, with only one batch in memory.

    The batches are bit for bit those of ``Batches`` on ``image_folder`` with the same size and key.

    Args:
        path: The folder of the class folders, as in ``image_folder``.
        size: The number of images in a batch.
        key: The key that draws a new order for each epoch; ``None`` gives the stored order.
        classes: As in ``image_folder``.
        resize: As in ``image_folder``.
        mode: As in ``image_folder``.
        transform: A function ``transform(batch) -> batch`` on the host, such as
            ``data.unit_range``; a batch is ``(x, labels)``.

    Returns:
        The stream, which can start at any step at once.

    Raises:
        ImportError: If Pillow is missing (extra ``images``).
        FileNotFoundError: If the folder does not exist.
        DataError: If the folder contains no images, or a subfolder is not one of ``classes``.
            During iteration, if a file is not a valid image, or differs from the first one in size
            or mode.
        TypeError: If ``size`` is not an integer, ``key`` is not a typed key, or ``classes`` is not
            a list of names.
        ValueError: If ``size < 1``, or ``classes``, ``resize`` or ``mode`` has a value that is not
            allowed.
    """
    batch_size(size)
    if key is not None:
        check_key(key)
    files = _files(Path(path), classes, resize, mode)
    n = len(files.paths)

    def read(step: int) -> Iterator[PyTree]:
        while True:
            epochs, positions = np.divmod(step * size + np.arange(size), n)
            index = positions if key is None else np.asarray(shuffled(key, epochs, positions, n))
            batch = np.stack([_read(files, i) for i in index.tolist()]), files.labels[index]
            yield batch if transform is None else transform(batch)
            step += 1

    return Stream(read)


class _Files(NamedTuple):
    """The images of a folder, and the form in which they are read."""

    paths: list[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    resize: tuple[int, int] | None
    mode: str | None
    form: tuple  # (h, w, c) of the first image


def _files(
    folder: Path, classes: Sequence[str] | None, resize: tuple | None, mode: str | None
) -> _Files:
    if mode is not None and mode not in _MODES:
        raise ValueError(f"mode is {mode!r}; expected 'L', 'RGB' or None")
    if resize is not None and (len(resize) != 2 or min(resize) < 1):
        raise ValueError(f"resize is {resize}; expected (height, width), both at least 1")
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    folders = [path for path in _visible(folder) if path.is_dir()]
    if not folders:
        raise DataError(f"{folder} is empty: it holds no folders; expected one folder per class")
    names = _class_names(folder, folders, classes)
    paths, labels = [], []
    for subfolder in sorted(folders, key=lambda path: names.index(path.name)):
        images = _visible(subfolder)
        nested = [path for path in images if path.is_dir()]
        if not images or nested:
            problem = f"holds a folder, {nested[0].name}" if nested else "is empty"
            raise DataError(f"{subfolder} {problem}; expected images of one class")
        paths += images
        labels += [names.index(subfolder.name)] * len(images)
    files = _Files(
        paths=paths,
        labels=np.asarray(labels, np.int32),
        classes=names,
        resize=resize,
        mode=mode,
        form=(),
    )
    return files._replace(form=_image(files, 0).shape)


def _class_names(
    folder: Path, folders: list[Path], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the names of the classes in the order of their labels."""
    if classes is None:
        return tuple(path.name for path in folders)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError(f"classes is {classes!r}; expected a list of names")
    names = tuple(classes)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"classes has {twice!r} {names.count(twice)} times; expected each once")
    unknown = [path.name for path in folders if path.name not in names]
    if unknown:
        raise DataError(
            f"{folder / unknown[0]} is not a folder of one of the classes {list(names)}; add the "
            "name at the end of the list, or remove the folder"
        )
    return names


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read(files: _Files, i: int) -> np.ndarray:
    """Read one image, ``(h, w, c)``, and compare its shape with that of the first."""
    image = _image(files, i)
    if image.shape != files.form:
        sizes = [" x ".join(map(str, form)) for form in (image.shape, files.form)]
        raise DataError(
            f"{files.paths[i]} is {sizes[0]} (height, width, channels), but {files.paths[0]} is "
            f"{sizes[1]}; to convert them, pass resize=(height, width) and mode='RGB'"
        )
    return image


def _image(files: _Files, i: int) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('Pillow is missing: pip install "funcdl[images]"') from error
    path = files.paths[i]
    try:
        with Image.open(path) as image:
            image.verify()  # checks the checksums, and closes the image
        with Image.open(path) as image:
            allowed = _MODES if files.mode is None else _CONVERTED
            count = getattr(image, "n_frames", 1)
            if image.mode not in allowed or count > 1:
                frames = f" and {count} frames" if image.mode in allowed else ""
                more = ", or pass mode='RGB' to convert other modes" if files.mode is None else ""
                raise DataError(
                    f"{path} has mode {image.mode}{frames}; expected {' or '.join(allowed)}{more}"
                )
            image = ImageOps.exif_transpose(image)
            if files.mode is not None:
                image = image.convert(files.mode)
            if files.resize is not None:
                height, width = files.resize
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # each decoder of Pillow raises a class of its own
        raise DataError(f"{path} is not a valid image: {error}") from error
    return array[..., None] if array.ndim == 2 else array
