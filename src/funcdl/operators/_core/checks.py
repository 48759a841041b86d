"""What operators refuse, each with what was given and what to do."""

import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import concrete
from funcdl._typing import Array


def not_square(a) -> None:
    """Refuse an operator between vectors of different forms.

    Raises:
        ValueError: Names both.
    """
    if a.space_in != a.space_out:
        raise ValueError(f"A is not square: it maps {a.shape_in} to {a.shape_out}")


def indirect(a, name: str) -> None:
    """Refuse an operator whose action has no ``solve`` or ``logdet``.

    Raises:
        ValueError: If it is not square.
        TypeError: Names what needs products only.
    """
    if a.space_in.size != a.space_out.size:
        not_square(a)
    if getattr(a.action, name) is None:
        raise TypeError(
            f"{a!r} has no closed form of {name}; operators.cg, operators.minres and "
            "operators.lsmr solve by products alone, A.dense() writes it out"
        )


def no_scalar(what: str, x) -> Array:
    """Return a real scalar.

    Raises:
        TypeError: If it is complex.
        ValueError: If it has axes.
    """
    if jnp.iscomplexobj(x):
        raise TypeError(f"{what} is complex; expected a real scalar")
    if jnp.shape(x) != ():
        raise ValueError(f"{what} has shape {jnp.shape(x)}; expected a scalar")
    return jnp.asarray(x)


def not_negative(x) -> bool:
    """Tell whether a scalar is known not to be negative; a tracer is not."""
    value = concrete(x)
    return value is not None and bool(value >= 0)


def other_space(what: str, a, b) -> None:
    """Refuse operators whose vectors have different forms.

    Raises:
        ValueError: Names the first path that differs.
    """
    _tree.check_like(b.tree, a.tree, f"{what}: the form of B", "the form of A")


def not_flat(name: str, a) -> None:
    """Refuse an operator whose vectors are not ``(n,)``.

    Raises:
        ValueError: Names both forms.
    """
    if any(getattr(form, "ndim", None) != 1 for form in (a.shape_in, a.shape_out)):
        raise ValueError(
            f"{name} maps {a.shape_in} to {a.shape_out}; expected vectors (n,) on both sides"
        )
