"""Checks of operators; each error states the argument and the remedy."""

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import concrete
from funcdl._typing import Array, ArrayLike, PyTree, Shaped
from funcdl.operators._core.space import Operator, Space


def not_square(a: Operator) -> None:
    """Raise an error if an operator maps between vectors of different structure.

    Raises:
        ValueError: If it does; the message names both structures.
    """
    if a.space_in != a.space_out:
        spaces = a.space_in, a.space_out
        if all(len(space.leaves) == 1 for space in spaces):
            forms = [f"vectors of shape {space.leaves[0].shape}" for space in spaces]
            raise ValueError(f"A is not square: it maps {forms[0]} to {forms[1]}")
        if spaces[0].size != spaces[1].size:
            forms = [f"trees with {space.size} entries" for space in spaces]
            raise ValueError(f"A is not square: it maps {forms[0]} to {forms[1]}")
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
        TypeError: If it is complex, or not a number.
        ValueError: If it has axes.
    """
    if callable(x) or isinstance(x, str):
        hint = f", such as {name}(step)" if callable(x) else ""
        raise TypeError(f"{name} is {x!r}; expected a real scalar{hint}")
    if jnp.iscomplexobj(x):
        raise TypeError(f"{name} is complex; expected a real scalar")
    if jnp.shape(x) != ():
        raise ValueError(f"{name} has shape {jnp.shape(x)}; expected a scalar")
    return jnp.asarray(x)


def vector(x: PyTree, like: Shaped, name: str, expected: str, remedy: str) -> None:
    """Raise an error if a vector does not have the structure of ``like``.

    Raises:
        ValueError: If it does not; the message gives the remedy if several vectors were passed.
    """
    try:
        _tree.check_like(x, like, name, expected)
    except ValueError as error:
        pairs = zip(jax.tree.leaves(x), jax.tree.leaves(like))
        if all(jnp.ndim(a) == jnp.ndim(b) + 1 for a, b in pairs):
            raise ValueError(f"{error}; for several vectors, {remedy}") from None
        raise


# the names of other libraries, with ours
_OTHER_NAMES = {
    "shape": "A.shape_in and A.shape_out, or A.space_out.size and A.space_in.size",
    "size": "A.space_in.size and A.space_out.size",
    "dtype": "the dtypes of A.shape_in and A.shape_out",
    "trace": "operators.trace(A, key=key), or jnp.trace(A.dense())",
    "diag": "operators.diagonal(A, key=key), or jnp.diag(A.dense())",
    "diagonal": "operators.diagonal(A, key=key), or jnp.diag(A.dense())",
    "cond": "operators.cond(A, key=key)",
    "det": "A.logdet(), or operators.logdet(A, key=key)",
    "slogdet": "A.logdet(), or operators.logdet(A, key=key)",
    "matvec": "A @ v",
    "mv": "A @ v",
    "rmatvec": "A.T @ w",
    "matmat": "A.mm(V), with one vector per row of V",
    "transpose": "A.T",
    "H": "A.T",
    "adjoint": "A.T",
}
_OTHER_NAMES |= dict.fromkeys(("to_dense", "todense", "toarray", "as_matrix"), "A.dense()")
_OTHER_NAMES |= dict.fromkeys(("inverse", "pinv"), "A.inv(), or operators.solve(A, b)")
_OTHER_NAMES |= dict.fromkeys(
    ("eigh", "eigsh", "eig", "eigs", "eigenvalues", "eigvalsh", "top"),
    "operators.eigsh(A, k, key=key)",
)


def other_name(name: str) -> str:
    """Return the message for an attribute that an operator does not have."""
    hint = f"; use {_OTHER_NAMES[name]}" if name in _OTHER_NAMES else ""
    return f"'LinearOperator' object has no attribute {name!r}{hint}"


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
