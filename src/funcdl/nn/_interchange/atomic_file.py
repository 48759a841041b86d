"""Atomic writing of files."""

import os
from pathlib import Path


def write(path: str | os.PathLike, content: bytes) -> Path:
    """Write a draft next to the file, flush it to the disk, and rename it; return the path."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
