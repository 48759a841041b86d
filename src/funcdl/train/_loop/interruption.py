"""Interruptions of training: the run of the last border is never lost."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax

from funcdl.train._program import Run


@contextlib.contextmanager
def evidence(run: Run, history: Callable[[], Any]) -> Iterator[SimpleNamespace]:
    """Attach the run of the last border and the history to an exception that passes through.

    Args:
        run: The run to start from.
        history: A function that returns the history; it is called only if it is needed.

    Yields:
        A namespace in which the caller keeps ``run`` and ``step`` of the last border. The run is
        ``None`` while its buffers are donated.
    """
    start = int(run.step)
    border = SimpleNamespace(run=run, step=start)
    try:
        yield border
    except BaseException as error:
        vars(error).update(history=history())
        if border.run is not None:
            vars(error).update(run=border.run)
            if border.step > start:
                error.add_note(
                    f"training stopped at step {border.step}; error.run is the run at that step"
                )
        raise


# Python runs a signal handler between two of its instructions, so the loop must not wait for the
# device inside one of them: it runs for about a second at a time (``pieces``), and meanwhile the
# main thread waits for a lock, which a handler interrupts.
@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C and SIGTERM until the run can be saved.

    The first signal prints a line and waits. A second Ctrl-C interrupts at once. A signal that the
    process ignores stays ignored.

    Yields:
        A function that calls the handler of a signal that has arrived: the one from before, which
        raises ``KeyboardInterrupt`` for Ctrl-C, or else ``SystemExit`` for SIGTERM.
    """
    arrived, before = [], {}

    def defer(number, frame):
        is_second = number == signal.SIGINT and number in arrived
        arrived.append(number)
        if is_second:
            _handle(before[number], number, frame)
        else:
            _say(number)

    def deliver():
        if arrived:
            _handle(before[arrived[0]], arrived[0], None)
            arrived.clear()  # the handler chose to continue

    for number in _signals():
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):  # None: it belongs to other code than Python's
            before[number] = signal.signal(number, defer)
    try:
        yield deliver
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    deliver()  # a signal that came after the last border


def _signals() -> tuple:
    """Return the signals to defer; only the main thread may handle signals."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    # over several processes jax.distributed handles SIGTERM
    return (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else (signal.SIGINT,)


def _handle(handler: Any, number: int, frame: Any) -> None:
    if callable(handler):
        handler(number, frame)
    else:  # SIG_DFL would end the process without any cleanup
        raise SystemExit(128 + number)


def _say(number: int) -> None:
    is_key = number == signal.SIGINT
    hint = " (press Ctrl-C again to stop at once, without its steps)" if is_key else ""
    with contextlib.suppress(RuntimeError, ValueError):  # stderr was interrupted, or is closed
        print(f"\nstopping after this chunk{hint}", file=sys.stderr, flush=True)
