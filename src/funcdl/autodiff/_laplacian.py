"""Laplacians in one forward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from funcdl import _jaxpr, _tree
from funcdl._jaxpr import Equation
from funcdl._typing import Function, PyTree
from funcdl.autodiff._bind import bind, form
from funcdl.autodiff._jets import Jet, is_moving, propagate
from funcdl.autodiff._unit_vectors import check_chunk, coordinates


def laplacian(f: Function, *, chunk: int | None = None) -> Callable:
    r"""Sum the second derivatives, :math:`\Delta f = \sum_i \partial^2 f/\partial x_i^2`.

    It is exact. One forward pass propagates each intermediate value with its first derivatives and
    its Laplacian:

    .. math::
        \Delta\, h(u) = h'(u)\, \Delta u + \sum_i h''(u)[\partial_i u, \partial_i u]

    so a linear step costs n + 1 products, where the trace of the Hessian takes 2n.

    Args:
        f: ``f(x, *args)``; x and the result are pytrees of floats, scalars or not. Leaves of x
            that are integers, booleans or keys are carried along.
        chunk: The number of coordinates per pass, by default 128: a pass takes the memory of so
            many evaluations of f.

    Returns:
        A function ``second_derivative(x, *args)`` that returns a tree like ``f(x, *args)``;
        ``args`` are held fixed.

    Source: Li et al., "A computational framework for neural network-based variational Monte Carlo
    with forward Laplacian", Nature Machine Intelligence 6 (2024).

    >>> import jax.numpy as jnp
    >>> laplacian(lambda x: (x**3).sum())(jnp.asarray([1.0, 2.0])).item()
    18.0
    """

    def second_derivative(x: PyTree, *args: Any) -> PyTree:
        bound = bind(f, x, args)
        form(bound)
        check_chunk(chunk)
        return _laplacian(bound.g, bound.leaves, 128 if chunk is None else chunk)

    return second_derivative


@partial(jax.jit, static_argnums=2)
def _laplacian(g: Callable, leaves: list, chunk: int) -> PyTree:
    closed, out = jax.make_jaxpr(g, return_shape=True)(leaves)
    rows, unit = coordinates(leaves, chunk)

    def add(total, row):
        slopes = jax.vmap(unit)(row)
        jets = [Jet(x, s, jnp.zeros_like(x)) for x, s in zip(leaves, slopes)]
        results = _jaxpr.interpret(closed, jets, _rule)
        parts = [y.bend if isinstance(y, Jet) else jnp.zeros_like(y) for y in results]
        return _tree.add(total, parts), None

    total, _ = jax.lax.scan(add, _tree.zeros(jax.tree.leaves(out)), rows)
    return jax.tree.unflatten(jax.tree.structure(out), total)


# Without a table of primitives: each equation is differentiated by jax itself, with nested jvp
# along each coordinate (h' ∂u and h''[∂u, ∂u]) and one jvp along the Laplacian. Calls are entered,
# so that a linear operation inside of a jitted function also costs only its own products.
def _rule(equation: Equation, operands: list, plainly: Callable) -> list:
    """Propagate jets through one equation: enter calls, differentiate any other operation."""
    if not is_moving(operands):
        return plainly(*operands)
    if equation.primitive.name in _jaxpr.CALLS:
        return _jaxpr.interpret(_jaxpr.called(equation), operands, _rule)
    return propagate(equation, operands, plainly, _derive)


def _derive(h: Callable, u: list, slopes: list, laplacians: list) -> tuple[list, list]:
    def along(v: list) -> tuple[list, list]:
        return jax.jvp(lambda u: jax.jvp(h, (u,), (v,))[1], (u,), (v,))

    first, second = jax.vmap(along)(slopes)
    _, linear = jax.jvp(h, (u,), (laplacians,))
    return first, [l + c.sum(axis=0) for l, c in zip(linear, second)]
