"""Where an equation of a jaxpr comes from: layer, function, file and line."""

from pathlib import Path

import jax
import jax.extend.core as jex
from jax.extend import source_info_util

from funcdl._jaxpr import JAXPRS

_JAX = str(Path(jax.__file__).parent)


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


def title(equation: jex.JaxprEqn) -> str:
    """Name what an equation computes: its primitive or, if a function of jax's own, the function.

    Args:
        equation: Of a jaxpr.

    Returns:
        ``logaddexp`` for the custom derivative of that name in jax; a user's own keeps the name of
        the primitive, ``custom_jvp_call``.
    """
    name = equation.primitive.name
    return own_function(equation) or name if name == "custom_jvp_call" else name


def own_function(equation: jex.JaxprEqn) -> str:
    """Name the function of jax's own that an equation calls; empty if it is another's, or none.

    Args:
        equation: Of a jaxpr.

    Returns:
        ``softmax`` and the like.
    """
    inside = next((v for v in equation.params.values() if isinstance(v, JAXPRS)), None)
    if inside is None:
        return ""
    source = str(getattr(inside, "jaxpr", inside).debug_info.func_src_info)
    name, _, file = source.partition(" at ")
    return name if file.startswith(_JAX) else ""
