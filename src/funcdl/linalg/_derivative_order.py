"""Derivatives that end somewhere, and linear maps that keep theirs through a transposition."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl._closure import hoisted
from funcdl._typing import Array, PyTree


def last(name: str, x: PyTree) -> PyTree:
    """Refuse the third derivative, which would be wrong at ties."""
    return refuse(f"{name} has derivatives up to the second order, not beyond", x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def refuse(message: str, x: PyTree) -> PyTree:
    """Return ``x``, and refuse to differentiate it: better no derivative than a wrong one.

    Args:
        message: What is raised when somebody does.
        x: Any tree.

    Returns:
        The same.

    Raises:
        NotImplementedError: When it is differentiated.
    """
    del message
    return x


@refuse.defjvp
def _refuse_jvp(message, primals, tangents):
    del primals, tangents
    raise NotImplementedError(message)


def self_adjoint(apply: Callable, x: Array) -> Array:
    r"""Compute ``apply(x)``, linear in x, so that its own derivative rule survives reverse mode.

    A linear function inside a derivative rule is transposed by jax step by step: a custom rule of
    its own for what it closes over is lost on the way, silently. The solution of

    .. math:: \begin{pmatrix} -L & I \\ I & 0 \end{pmatrix} \begin{pmatrix} e \\ t \end{pmatrix}
              = \begin{pmatrix} 0 \\ x \end{pmatrix}

    is :math:`t = L x`, and a linear solve is transposed as a whole, differentiated through the
    equation that it solves.

    Args:
        apply: ``apply(x) -> array`` of the form of x; self-adjoint for all that it closes over.
        x: An array.

    Returns:
        ``apply(x)``.
    """

    def equations(pair):  # one array: a part of it without a tangent could not be transposed
        e, t = pair
        return jnp.stack([t - apply(e), e])

    def solve(_, rhs):
        return jnp.stack([rhs[1], rhs[0] + apply(rhs[1])])

    rhs = jnp.stack([jnp.zeros_like(x), x])
    return jax.lax.custom_linear_solve(equations, rhs, solve, symmetric=True)[1]


def scalar_function(f: Callable, dtype) -> Partial:
    """Return a function of one number, with the tracers that it captured as leaves.

    Args:
        f: Any function.
        dtype: Of the number.

    Returns:
        A ``Partial``.

    Raises:
        ValueError: If it returns something else than one number.
    """
    number = jax.ShapeDtypeStruct((), dtype)
    out = jax.tree.leaves(jax.eval_shape(f, number))
    if [x.shape for x in out] != [()]:
        shapes = ", ".join(str(x.shape) for x in out) or "nothing"
        raise ValueError(f"f returns {shapes} for one number; expected one number, of shape ()")
    return hoisted(f, (number,))


def tangent(f: Partial, df: PyTree, x: Array) -> Array:
    """Differentiate a function in what it carries: ``df`` is a tangent of its leaves."""
    return jax.jvp(lambda f: f(x), (f,), (df,))[1]
