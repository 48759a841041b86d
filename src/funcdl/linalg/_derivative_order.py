"""Limits on the order of derivatives, and linear maps that keep theirs when transposed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl._check import returns_array
from funcdl._closure import hoisted
from funcdl._typing import Array, DTypeLike, PyTree


def last(name: str, x: PyTree) -> PyTree:
    """Raise an error for the third derivative, which would be wrong at ties."""
    return refuse(f"{name} has derivatives up to the second order, not beyond", x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def refuse(message: str, x: PyTree) -> PyTree:
    """Return ``x``, and raise an error when it is differentiated, rather than a wrong derivative.

    Args:
        message: The message of the error.
        x: Any tree.

    Returns:
        The same tree.

    Raises:
        NotImplementedError: When the result is differentiated.
    """
    del message
    return x


@refuse.defjvp
def _refuse_jvp(message: str, primals: tuple, tangents: tuple) -> Any:
    del primals, tangents
    raise NotImplementedError(message)


def self_adjoint(apply: Callable, x: Array) -> Array:
    r"""Compute ``apply(x)``, linear in x, so that its own derivative rule survives reverse mode.

    jax transposes a linear function inside a derivative rule step by step: a custom rule for the
    values that the function closes over is silently lost on the way. The solution of

    .. math:: \begin{pmatrix} -L & I \\ I & 0 \end{pmatrix} \begin{pmatrix} e \\ t \end{pmatrix}
              = \begin{pmatrix} 0 \\ x \end{pmatrix}

    is :math:`t = L x`, and a linear solve is transposed as a whole, differentiated through the
    equation that it solves.

    Args:
        apply: ``apply(x) -> array`` like x; self-adjoint for all values that it closes over.
        x: An array.

    Returns:
        ``apply(x)``.
        ``apply(x)``.
    """

    def equations(pair):  # one array: a part of it without a tangent could not be transposed
        e, t = pair
        return jnp.stack([t - apply(e), e])

    def solve(_, rhs):
        return jnp.stack([rhs[1], rhs[0] + apply(rhs[1])])

    rhs = jnp.stack([jnp.zeros_like(x), x])
    return jax.lax.custom_linear_solve(equations, rhs, solve, symmetric=True)[1]


def scalar_function(f: Callable, dtype: DTypeLike) -> Partial:
    """Return a function of one number, with its captured tracers as leaves.

    Args:
        f: Any function.
        dtype: The dtype of the number.

    Returns:
        The function as a ``Partial``.

    Raises:
        ValueError: If it returns anything other than one real number.
    """
    number = jax.ShapeDtypeStruct((), dtype)
    out = jax.eval_shape(f, number)
    returns_array("f", out)
    if out.shape != () or jnp.issubdtype(out.dtype, jnp.complexfloating):
        raise ValueError(
            f"f returns {out.dtype} of shape {out.shape} for one number; expected one real number, "
            "of shape ()"
        )
    if jnp.issubdtype(out.dtype, jnp.floating):
        return hoisted(f, (number,))
    return hoisted(lambda x: jnp.asarray(f(x), dtype), (number,))  # as a step function


def tangent(f: Partial, df: PyTree, x: Array) -> Array:
    """Differentiate ``f(x)`` in the leaves that f carries, along their tangent ``df``."""
    return jax.jvp(lambda f: f(x), (f,), (df,))[1]
