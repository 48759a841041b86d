"""Derivatives of any order along a line."""

from collections.abc import Callable

import jax

from funcdl._check import integer
from funcdl._typing import PyTree
from funcdl.autodiff._bind import bind, floats


def taylor(f: Callable) -> Callable:
    r"""Differentiate along a line, :math:`\frac{d^k}{dt^k} f(x + t v)` at :math:`t = 0`.

    Forward mode nested k times: the work doubles with each order, at worst, so keep to a few.

    Args:
        f: ``f(x, *args)``; x and what it returns are pytrees of floats. Leaves of x that are
            integers, booleans or keys are carried along.

    Returns:
        ``derivatives(x, v, order, *args)``: a tuple of ``order + 1`` trees like ``f(x, *args)``,
        the value first; divided by k! they are Taylor's coefficients. ``args`` are held fixed.
        It raises ``ValueError`` if ``v`` is not like ``x`` or ``order`` is negative, and
        ``TypeError`` if x has no floats or f returns what are no floats.

    >>> import jax.numpy as jnp
    >>> [y.item() for y in taylor(lambda x: x[0] ** 3)(jnp.ones(1), jnp.ones(1), 3)]
    [1.0, 3.0, 6.0, 6.0]
    """

    def derivatives(x: PyTree, v: PyTree, order: int, *args) -> tuple[PyTree, ...]:
        if integer("order", order) < 0:
            raise ValueError(f"order is {order}; expected a number of derivatives >= 0")
        bound = bind(f, x, args)
        direction = bound.pick(v)

        def upto(k: int) -> Callable:
            """Return the function of x with the values of all orders up to k."""
            if k == 0:
                return lambda x: (floats(bound.g(x)),)

            def more(x):
                values, slopes = jax.jvp(upto(k - 1), (x,), (direction,))
                return values[0], *slopes

            return more

        return upto(order)(bound.leaves)

    return derivatives
