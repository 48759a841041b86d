"""Interruptions of training: the run of the last chunk border is never lost."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any


@contextlib.contextmanager
def evidence(start: int, history: Callable[[], Any]) -> Iterator[SimpleNamespace]:
    """Attach the run of the last border and the history to an exception that passes through.

    Args:
        start: The first step.
        history: A function that returns the history; it is called only if it is needed.

    Yields:
        A namespace in which the caller keeps ``run`` and ``step`` of the last border.
    """
    border = SimpleNamespace(run=None, step=start)
    try:
        yield border
    except BaseException as error:
        if border.run is not None:
            vars(error).update(run=border.run, history=history())
            error.add_note(
                f"training stopped at step {border.step}; error.run is the run at that step"
            )
        raise


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Defer the first Ctrl-C to the next border, because a run cannot be saved within a chunk.

    Yields:
        A ``threading.Event`` that Ctrl-C sets. The second Ctrl-C interrupts at once.
    """
    pressed = threading.Event()
    # only the main thread may handle signals
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def wait(_number, _frame):
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, wait)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
