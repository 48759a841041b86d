"""The only file that walks jaxprs, in formulations that hold on every supported jax."""

from collections.abc import Iterator

import jax.extend.core as jex
from jax.extend import source_info_util

# two classes up to jax 0.10, one from 0.11 on: never branch on which of them it is
_JAXPRS = (jex.Jaxpr, jex.ClosedJaxpr)


def subjaxprs(equation: jex.JaxprEqn) -> Iterator[jex.Jaxpr]:
    """Yield the jaxprs inside one equation: bodies of loops, branches, calls.

    They are found by value: the names of the parameters change from release to release.

    Args:
        equation: Of a jaxpr.

    Yields:
        Open jaxprs.
    """
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, _JAXPRS):
                yield getattr(item, "jaxpr", item)


def equations(jaxpr: jex.Jaxpr | jex.ClosedJaxpr) -> Iterator[jex.JaxprEqn]:
    """Yield all equations of a jaxpr, those of inner jaxprs included.

    Args:
        jaxpr: From ``jax.make_jaxpr``.

    Yields:
        Each equation before those inside it.

    >>> import jax
    >>> inner = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: jax.numpy.sin(x), x))
    >>> [e.primitive.name for e in equations(inner(1.0)) if e.primitive.name == "sin"]
    ['sin']
    """
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for inner in subjaxprs(equation):
            yield from equations(inner)


def scope(equation: jex.JaxprEqn) -> str:
    """Name the ``jax.named_scope`` of an equation; layers of Flax are named so.

    Args:
        equation: Of a jaxpr.

    Returns:
        ``Net/Conv_0``; empty outside of any.
    """
    return str(equation.source_info.name_stack)


def where(equation: jex.JaxprEqn) -> str:
    """Name the line of the user's code that an equation comes from.

    Args:
        equation: Of a jaxpr.

    Returns:
        ``file:line (function)``.
    """
    return source_info_util.summarize(equation.source_info)
