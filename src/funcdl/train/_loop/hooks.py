"""The optional methods of callbacks: where they look at a run, and their work at start and end."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from funcdl.train._program import Run

# A callback is any function of (run, metrics). These attributes are optional:
#   begin(run, callbacks)  before the first step; it may reject the run by an exception, and return
#                          states of other callbacks by their names
#   due(step)              the next step at which it looks; it is called there and not elsewhere
#   end(run)               when training ends, for any reason; None if the run is lost
#   name, state            a JSON value that belongs to the run, and the name to store it by
# Callbacks with ``due`` are called last, so that a checkpoint contains the states of the others;
# they begin first, so that a rejected run changes nothing, and end last.


def ordered(callbacks: Sequence[Callable]) -> list[Callable]:
    """Return callbacks in the order in which they are called."""
    return sorted(callbacks, key=lambda callback: hasattr(callback, "due"))


@contextlib.contextmanager
def attended(callbacks: Sequence[Callable], border: SimpleNamespace) -> Iterator[None]:
    """Call ``begin`` of all callbacks, and in any case ``end``, also if ``begin`` raises an error.

    Args:
        callbacks: The callbacks.
        border: The run of the last border, as in ``evidence``.
    """
    states = {}
    with contextlib.ExitStack() as stack:
        for callback in reversed(callbacks):
            stack.push(partial(_end, callback, border))
            states |= getattr(callback, "begin", _nothing)(border.run, callbacks) or {}
        for callback in callbacks:
            if hasattr(callback, "state") and getattr(callback, "name", None) in states:
                callback.state = states[callback.name]
        yield


def cut(callbacks: Sequence[Callable], step: int, end: int) -> int:
    """Return the next step up to ``end`` at which a callback looks."""
    due = (max(step + 1, c.due(step)) for c in callbacks if hasattr(c, "due"))
    return min([end, *due])


def on_duty(callbacks: Sequence[Callable], before: int, step: int, end: int) -> list[Callable]:
    """Return the callbacks that look at a step, which is a border of ``fit`` if it is ``end``."""
    is_due = lambda c: c.due(before) <= step if hasattr(c, "due") else step == end
    return [callback for callback in callbacks if is_due(callback)]


def position(run: Run) -> tuple:
    """Identify a run and its step, to recognize where a callback was left."""
    key = getattr(run, "key", None)
    words = () if key is None else np.asarray(jax.random.key_data(key)).tobytes()
    return words, int(run.step)


def _nothing(*_: Any) -> None:
    pass


def _end(
    callback: Callable, border: SimpleNamespace, _kind: Any, error: BaseException | None, _: Any
) -> None:
    # an error in one of several processes cannot wait for the others, as a save does
    is_lost = error is not None and jax.process_count() > 1
    try:
        getattr(callback, "end", _nothing)(None if is_lost else border.run)
    except Exception as failure:
        if error is None:
            raise
        error.add_note(f"{getattr(callback, 'name', callback)} failed at the end: {failure}")
