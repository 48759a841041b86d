"""Functions prepared for jax: captured tracers as leaves, or compiled for a single call."""

import collections
import functools
import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.tree_util import Partial

from funcdl._tree import path_text


def _check_outputs(g: Callable, args: tuple) -> None:
    """Explain why a function could not be traced, if it returned anything but arrays.

    Raises:
        TypeError: If it did; the message names the first such leaf and its path.
    """

    def checked(*args):
        for path, leaf in jax.tree_util.tree_leaves_with_path(g(*args)):
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex)):
                at = f" at path {path_text(path)!r}" if path else ""
                name = getattr(g, "__name__", type(g).__name__)
                raise TypeError(
                    f"the function {name} returned {leaf!r}{at}; expected a tree of arrays"
                )
        return 0

    jax.eval_shape(checked, *args)


def hoisted(f: Callable, *examples: tuple) -> Partial:
    """Return ``f`` as a ``Partial`` whose captured tracers are its leaves.

    A tracer inside a closure is invisible to ``jax.jit`` caches and to custom derivatives; as a
    leaf it is an ordinary argument. A function without captured tracers keeps its identity, so it
    hits the same compilation again. (``jax.closure_convert`` leaves integers in the closure, and
    always computes with the sizes of its example.)

    Args:
        f: Any traceable function, or a ``Partial``.
        examples: Arguments of every structure that will be passed; arrays or
            ``jax.ShapeDtypeStruct``.

    Returns:
        A ``Partial`` that computes the same.
    """
    g, bound = (f.func, f.args) if isinstance(f, Partial) and not f.keywords else (f, ())
    programs, captured = {}, []
    for example in examples:
        args = jax.eval_shape(lambda *args: args, *bound, *example)
        try:
            closed, out = jax.make_jaxpr(g, return_shape=True)(*args)
        except TypeError:
            _check_outputs(g, args)
            raise
        if not captured and not any(map(is_traced, closed.consts)):
            return as_partial(f)
        programs[_form(args)] = len(captured), closed.jaxpr, jax.tree.structure(out)
        captured.append(closed.consts)

    def call(captured, *args):
        form = _form(args)
        if form not in programs:
            known = ", ".join(str(leaves) for _, leaves in programs)
            raise ValueError(f"arguments are {form[1]}; the function was traced for {known}")
        index, jaxpr, treedef = programs[form]
        out = jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, captured[index]))(*jax.tree.leaves(args))
        return jax.tree.unflatten(treedef, out)

    return Partial(call, captured, *bound)


def current(f: Partial, *example: Any) -> Partial:
    """Return a function under a new identity whenever a value that it closes over has changed.

    ``jax.jit`` remembers a function by its identity, so it would use the old value of an array,
    object or dictionary that was changed in place. The function is traced at each call, and jit
    sees a new function if the program or a captured array differs from the last one.

    Args:
        f: A ``Partial`` of any traceable function; its leaves are arguments.
        example: The arguments; arrays or ``jax.ShapeDtypeStruct``.

    Returns:
        A ``Partial`` that computes the same.
    """
    # a ``functools.partial`` is a new function for jit, but not a line in the errors of the user
    closed = jax.make_jaxpr(functools.partial(f.func))(*f.args, *example, **f.keywords)
    program = re.sub("0x[0-9a-f]+", "", str(closed.jaxpr))
    key = f.func, jax.tree.structure((f, example)), program, *map(_content, closed.consts)
    if key not in _CURRENT:
        _CURRENT[key] = functools.partial(f.func)
        if len(_CURRENT) > _MOST:
            _CURRENT.popitem(last=False)
    _CURRENT.move_to_end(key)
    return Partial(_CURRENT[key], *f.args, **f.keywords)


_CURRENT: collections.OrderedDict[tuple, Callable] = collections.OrderedDict()
_MOST = 512  # functions that are remembered


def _content(x: Any) -> bytes | tuple:
    """Return a digest of the value of a captured array; a tracer has no value."""
    if is_traced(x) or jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return jnp.shape(x), str(x.dtype)
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).digest()


def as_partial(f: Callable) -> Partial:
    """Return a function as a pytree, whose static part belongs to the key of a jit cache."""
    return f if isinstance(f, Partial) else Partial(f)


def _form(args: tuple) -> tuple:
    leaves, treedef = jax.tree.flatten(args)
    types = [jax.typeof(x) if not isinstance(x, jax.ShapeDtypeStruct) else x for x in leaves]
    return treedef, tuple((x.shape, x.dtype) for x in types)


def is_traced(x: Any) -> bool:
    """Check whether a value is a tracer, without importing the class of tracers."""
    try:
        getattr(x, "is_fully_addressable", None)
    except jax.errors.ConcretizationTypeError:
        return True
    return False


def once(f: Callable) -> Callable:
    """Compile a function that runs about once, as a whole but without optimization on a CPU.

    Drawing the parameters of a small network then takes a quarter of the time that its operations
    would take one by one, or compiled with optimization. Inside a trace, ``f`` itself is called.

    Args:
        f: Any function of arrays, ``f(*args)``.

    Returns:
        A function that computes the same.
    """
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    compiled = jax.jit(f, compiler_options=quick)
    return lambda *args: (f if any(map(is_traced, jax.tree.leaves(args))) else compiled)(*args)
