"""Derivatives of any order along a line."""

from collections.abc import Callable

import jax

from funcdl._check import integer
from funcdl._typing import Function, PyTree
from funcdl.autodiff._bind import bind, floats


def taylor(f: Function) -> Callable:
    r"""Compute derivatives along a line, :math:`\frac{d^k}{dt^k} f(x + t v)` at :math:`t = 0`.

    Forward mode is nested k times: the work at worst doubles with each order, so use few.

    Args:
        f: ``f(x, *args)``; x and the result are pytrees of floats. Leaves of x that are integers,
            booleans or keys are carried along.

    Returns:
        A function ``derivatives(x, v, order, *args)`` that returns a tuple of ``order + 1`` trees
        like ``f(x, *args)``, the value first; divided by k! they are Taylor coefficients. ``args``
        are held fixed. It raises ``ValueError`` if ``v`` is not like ``x`` or ``order`` is
        negative, and ``TypeError`` if x has no floats or f does not return floats.

    >>> import jax.numpy as jnp
    >>> [y.item() for y in taylor(lambda x: x[0] ** 3)(jnp.ones(1), jnp.ones(1), 3)]
    [1.0, 3.0, 6.0, 6.0]
    """

    def derivatives(x: PyTree, v: PyTree, order: int, *args) -> tuple[PyTree, ...]:
        if integer("order", order) < 0:
            raise ValueError(f"order is {order}; expected a number of derivatives >= 0")
        bound = bind(f, x, args)
        direction = bound.pick(v)

        def up_to(k: int) -> Callable:
            """Return the function of x with its derivatives of all orders up to k."""
            if k == 0:
                return lambda x: (floats(bound.g(x)),)

            def more(x):
                values, slopes = jax.jvp(up_to(k - 1), (x,), (direction,))
                return values[0], *slopes

            return more

        return up_to(order)(bound.leaves)

    return derivatives
