"""One writer per folder: a lock file that names its owner, and that ends with its process."""

import errno
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from funcdl.train._checkpoints import processes as _hosts
from funcdl.train._checkpoints.manifest import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
_LOG = logging.getLogger("funcdl")
_UNSUPPORTED = errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL
_held = set()  # (process, path): a record lock does not exclude its own process


# The kernel drops a record lock when its process ends, in whichever way, so a killed run leaves no
# lock that somebody has to remove; a process that the owner forked does not inherit it. The content
# of the file only serves the message. A holder removes the file before it releases the lock;
# a process that then locks a file without a name tries again.
def acquire(folder: Path) -> Callable[[], None]:
    """Make this process the only one that saves to a folder.

    Args:
        folder: The folder of the checkpoints of one run; it is created.

    Returns:
        A function that releases the lock.

    Raises:
        CheckpointError: If a run is writing to the folder already; the message names its process
            and its host.
        OSError: If the folder cannot be written to.
    """
    identity = _identity(folder)
    if identity in _held:
        raise CheckpointError(
            f"{folder} is in use by another run of this process, which saves its checkpoints "
            "there; use a new folder"
        )
    problem, descriptor = None, None
    if _hosts.leads():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(folder / NAME)
        except (CheckpointError, OSError) as error:
            problem = error
    if _hosts.agreed(int(problem is not None)):  # or the other processes would wait for this one
        raise problem or CheckpointError(f"the first process cannot write to {folder}")
    _held.add(identity)

    def release() -> None:
        if identity[0] != os.getpid():  # a copy of this function in a forked process
            return
        _held.discard(identity)
        if descriptor is not None:
            (folder / NAME).unlink(missing_ok=True)
            os.close(descriptor)

    return release


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock for a while, or use the one that this process holds already."""
    if _identity(folder) in _held:
        yield
        return
    release = acquire(folder)
    try:
        yield
    finally:
        release()


def _identity(folder: Path) -> tuple[int, str]:
    return os.getpid(), os.path.realpath(folder)


def _locked(path: Path) -> int:
    """Open the file, lock it, write the name of its owner, and return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise _refusal(path, descriptor, error) from None
            _LOG.warning("%s: this file system has no locks; give each run its own folder", path)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            owner = {"pid": os.getpid(), "host": socket.gethostname()}
            with suppress(OSError):  # on a full disk; the name only serves the message
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(owner).encode(), 0)
            return descriptor
        os.close(descriptor)


def _refusal(path: Path, descriptor: int, error: OSError) -> Exception:
    content = os.pread(descriptor, 1000, 0)
    os.close(descriptor)
    if error.errno not in (errno.EACCES, errno.EAGAIN):
        return error
    try:
        owner = json.loads(content)
        name = f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):  # it is just writing its name
        name = "another process"
    return CheckpointError(
        f"{path.parent} is in use by {name}, which saves its checkpoints there; use a new folder, "
        "or stop that process"
    )
