"""Checks of operators; each error states the argument and the remedy."""

import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import concrete
from funcdl._typing import Array, ArrayLike
from funcdl.operators._core.space import Operator, Space


def not_square(a: Operator) -> None:
    """Raise an error if an operator maps between vectors of different structure.

    Raises:
        ValueError: If it does; the message names both structures.
    """
    if a.space_in != a.space_out:
        raise ValueError(f"A is not square: it maps {a.shape_in} to {a.shape_out}")


def indirect(a: Operator, name: str) -> None:
    """Raise an error if an operator's action has no ``solve`` or ``logdet``.

    Raises:
        ValueError: If the operator is not square.
        TypeError: If the action lacks the function; the message names the iterative solvers.
    """
    if a.space_in.size != a.space_out.size:
        not_square(a)
    if getattr(a.action, name) is None:
        raise TypeError(
            f"{a!r} has no closed form of {name}; operators.cg, operators.minres and "
            "operators.lsmr need only products, and A.dense() returns the matrix"
        )


def no_scalar(name: str, x: ArrayLike) -> Array:
    """Return a real scalar.

    Raises:
        TypeError: If it is complex.
        ValueError: If it has axes.
    """
    if jnp.iscomplexobj(x):
        raise TypeError(f"{name} is complex; expected a real scalar")
    if jnp.shape(x) != ():
        raise ValueError(f"{name} has shape {jnp.shape(x)}; expected a scalar")
    return jnp.asarray(x)


def not_negative(x: ArrayLike) -> bool:
    """Check whether a scalar is known to be non-negative; for a tracer this is unknown."""
    value = concrete(x)
    return value is not None and bool(value >= 0)


def other_space(expression: str, a: Space, b: Space) -> None:
    """Raise an error if the vectors of two operators differ in structure.

    Raises:
        ValueError: If they do; the message names the first path that differs.
    """
    _tree.check_like(b.tree, a.tree, f"{expression}: the structure of B", "the structure of A")


def not_flat(name: str, a: Operator) -> None:
    """Raise an error if the vectors of an operator are not flat, ``(n,)``.

    Raises:
        ValueError: If they are not; the message names both structures.
    """
    if any(getattr(form, "ndim", None) != 1 for form in (a.shape_in, a.shape_out)):
        raise ValueError(
            f"{name} maps {a.shape_in} to {a.shape_out}; expected vectors (n,) on both sides"
        )
