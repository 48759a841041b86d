"""Functions as pytrees: what they captured becomes leaves."""

from collections.abc import Callable

import jax
from jax.tree_util import Partial


def hoisted(f: Callable, *example) -> Partial:
    """Return ``f`` as a ``Partial`` whose captured tracers are its leaves.

    A tracer inside a closure is invisible to ``jax.jit`` caches and to custom derivatives; as a
    leaf it is an ordinary argument. A function that captured none keeps its identity, so it hits
    the same compilation again.

    Args:
        f: Any traceable function, or a ``Partial``.
        example: Arguments of the right form; arrays or ``jax.ShapeDtypeStruct``.

    Returns:
        A ``Partial`` that computes the same.
    """
    g, bound = (f.func, f.args) if isinstance(f, Partial) and not f.keywords else (f, ())
    zeros = jax.eval_shape(lambda *args: args, *bound, *example)
    converted, captured = jax.closure_convert(g, *zeros)
    if not captured:
        return f if isinstance(f, Partial) else Partial(f)
    return Partial(lambda captured, *args: converted(*args, *captured), captured, *bound)
