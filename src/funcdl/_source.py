"""The origin of a jaxpr's equation: layer, function, file and line."""

from pathlib import Path

import jax
import jax.extend.core as jex
from jax.extend import source_info_util

from funcdl._jaxpr import JAXPRS

_JAX = str(Path(jax.__file__).parent)


def scope(equation: jex.JaxprEqn) -> str:
    """Return the ``jax.named_scope`` of an equation; Flax names its layers this way.

    Args:
        equation: Any equation.

    Returns:
        A scope such as ``Net/Conv_0``, or an empty string outside of any scope.
    """
    return str(equation.source_info.name_stack)


def where(equation: jex.JaxprEqn) -> str:
    """Return the line of the user's code that an equation comes from.

    Args:
        equation: Any equation.

    Returns:
        The line as ``file:line (function)``.
    """
    return source_info_util.summarize(equation.source_info)


def title(equation: jex.JaxprEqn) -> str:
    """Return a name for the operation of an equation: its primitive, or a function of jax itself.

    Args:
        equation: Any equation.

    Returns:
        ``logaddexp`` for the custom derivative of that name in jax; a custom derivative of the user
        keeps the name of the primitive, ``custom_jvp_call``.
    """
    name = equation.primitive.name
    return own_function(equation) or name if name == "custom_jvp_call" else name


def own_function(equation: jex.JaxprEqn) -> str:
    """Return the name of the jax function that an equation calls; empty for any other function.

    Args:
        equation: Any equation.

    Returns:
        A name such as ``softmax``, or an empty string.
    """
    name, file = function(equation)
    return name if file.startswith(_JAX) else ""


def function(equation: jex.JaxprEqn) -> tuple[str, str]:
    """Return the name and the file of the function that an equation calls.

    Args:
        equation: Any equation.

    Returns:
        The name, and ``file:line``; empty strings if the equation calls none.
    """
    inside = next((v for v in equation.params.values() if isinstance(v, JAXPRS)), None)
    if inside is None:
        return "", ""
    source = str(getattr(inside, "jaxpr", inside).debug_info.func_src_info)
    name, _, file = source.partition(" at ")
    return name, file
