"""What happens when training ends early: nothing that was reached is lost."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace


@contextlib.contextmanager
def evidence(start: int, history: Callable):
    """Attach the run of the last border, and the history, to an exception that passes.

    Args:
        start: The first step.
        history: Makes the history when it is needed.

    Yields:
        A place for ``run`` and ``step`` of the last border.
    """
    border = SimpleNamespace(run=None, step=start)
    try:
        yield border
    except BaseException as error:
        if border.run is not None:
            error.run, error.history = border.run, history()
            error.add_note(f"training stopped at step {border.step}; error.run is the run there")
        raise


@contextlib.contextmanager
def deferred_interrupt():
    """Let the first Ctrl-C wait: in the middle of a chunk there is no run to save.

    Yields:
        A ``threading.Event`` that Ctrl-C sets. The second Ctrl-C interrupts at once.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
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
