"""The product of a Hessian with a vector."""

from collections.abc import Callable

import jax

from funcdl import _tree
from funcdl._typing import PyTree


def hvp(f: Callable) -> Callable:
    r"""Multiply the Hessian by a vector, :math:`\nabla^2 f(x)\, v`.

    Forward over reverse: about twice the cost of one gradient.

    Args:
        f: Scalar-valued ``f(x, *args)``; ``x`` is any pytree of float arrays.

    Returns:
        ``product(x, v, *args)``: a tree like ``x`` for a direction ``v`` like ``x``; ``args`` are
        held fixed. It raises ``ValueError`` if ``v`` is not like ``x`` (the path is named) or if
        ``f`` is not scalar.

    Source: Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994).

    >>> import jax.numpy as jnp
    >>> hvp(lambda x: (x**3).sum())(jnp.ones(2), jnp.ones(2)).tolist()
    [6.0, 6.0]
    """

    def product(x: PyTree, v: PyTree, *args) -> PyTree:
        _tree.check_floating(x, "x")
        _tree.check_like(v, x, "direction v", "x")

        def scalar(x):
            y = f(x, *args)
            if jax.numpy.shape(y) != ():
                raise ValueError(f"f returned shape {jax.numpy.shape(y)}; expected a scalar")
            return y

        return jax.jvp(jax.grad(scalar), (x,), (v,))[1]

    return product
