"""Fingerprints of a pipeline of plain objects and of a batch, which show that one has changed."""

import dis
import functools
import hashlib
import os
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from funcdl._typing import PyTree

# A pipeline has no equality, so its parts are described: classes and functions by name and code,
# numbers and text by value, arrays by a sample, all other objects by their attributes. Addresses
# never count, so that the same script gives the same text in the next process. A value that a
# cached property keeps does not count either, because it appears with use.

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), range, np.generic)
_BOOKKEEPING = ("has_child", "cache")  # attributes of grain that change with use
_SAMPLE = 2**16  # the entries of an array, or of a list, that count


def of_pipeline(x: Any) -> str:
    """Return a fingerprint of an object by its attributes, its functions and their constants.

    Args:
        x: Any object, such as a data set of grain.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for text in _described(x, {}):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:32]


def of_batch(batch: PyTree) -> str:
    """Return a fingerprint of the values of a batch.

    Args:
        batch: A tree of arrays, or of anything that has a ``repr``.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256(str(jax.tree.structure(batch)).encode())
    for leaf in jax.tree.leaves(batch):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(repr(leaf).encode() if array.dtype.hasobject else array.tobytes())
    return digest.hexdigest()[:32]


def _described(x: Any, seen: dict[int, Any]) -> Iterator[str]:
    """Yield the parts of a description, depth first."""
    if isinstance(x, _SIMPLE):
        yield repr(x)
        return
    if id(x) in seen:
        yield "seen"
        return
    seen[id(x)] = x  # kept alive, so that no other object gets its id
    kind = x if isinstance(x, type) else type(x)
    yield f"{kind.__module__}.{kind.__qualname__}"
    for part in _parts(x):
        yield from _described(part, seen)


def _parts(x: Any) -> Iterator[Any]:
    """Yield the parts of the description of one object."""
    if isinstance(x, os.PathLike):
        yield os.fspath(x)
    elif isinstance(x, (np.ndarray, jax.Array)):
        x = np.asarray(x)
        flat = x.ravel()[:: max(1, x.size // _SAMPLE)]
        yield from (str(x.dtype), x.shape, repr(flat) if x.dtype.hasobject else flat.tobytes())
    elif isinstance(x, dict):
        yield len(x)
        for key, value in list(x.items())[:_SAMPLE]:
            yield from (key, value)
    elif isinstance(x, (set, frozenset)):
        yield from sorted(map(repr, x))
    elif isinstance(x, (list, tuple)):
        yield len(x)
        yield from x[:_SAMPLE]
    elif isinstance(x, functools.partial):
        yield from (x.func, x.args, x.keywords)
    elif isinstance(x, types.MethodType):
        yield from (x.__func__, x.__self__)
    elif isinstance(x, types.FunctionType):
        yield from _function(x)
    elif isinstance(x, types.CodeType):
        yield from _code(x)
    elif isinstance(x, type):
        yield from _own_functions(x)
    elif not isinstance(x, types.ModuleType):
        yield from _own_functions(type(x))
        for name, value in sorted(getattr(x, "__dict__", {}).items()):
            is_cached = isinstance(getattr(type(x), name, None), functools.cached_property)
            if not is_cached and not any(word in name for word in _BOOKKEEPING):
                yield from (name, value)


def _function(f: types.FunctionType) -> Iterator[Any]:
    """Yield the code of a function, its captured values, and the plain globals that it reads."""
    yield from (f.__module__, f.__qualname__, f.__code__, f.__defaults__, f.__kwdefaults__)
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty as yet
            yield "empty"
    for name in f.__code__.co_names:
        value = f.__globals__.get(name)
        is_own = isinstance(value, types.FunctionType) and value.__module__ == f.__module__
        if is_own or isinstance(value, (*_SIMPLE, np.ndarray, tuple, list, set, frozenset, dict)):
            yield from (name, value)


def _code(code: types.CodeType) -> Iterator[Any]:
    """Yield the operations of code, without its place in the file."""
    for step in dis.get_instructions(code):
        yield step.opname
        yield step.argval if isinstance(step.argval, _SIMPLE) else type(step.argval).__name__
    yield from code.co_consts


def _own_functions(kind: type) -> Iterator[Any]:
    """Yield the methods of a class that the user wrote, and of its bases."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("builtins", "grain", "numpy", "abc", "typing"):
            continue
        for name, value in sorted(vars(base).items()):
            if isinstance(value, types.FunctionType):
                yield from (name, value)
