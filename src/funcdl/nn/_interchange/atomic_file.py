"""Files that are whole or not there."""

import os
from pathlib import Path


def write(path: str | os.PathLike, content: bytes) -> Path:
    """Write beside the file, flush to the disk, and put it in its place; return its path."""
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
