"""Derivatives of the fixed point of an iteration, without differentiating the iteration."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import bicgstab

from funcdl import _tree
from funcdl._numerics import custom_jvp, no_tangent
from funcdl._typing import Array, PyTree


def differentiable(iterate: Callable, step: Callable, regular: Callable) -> Callable:
    r"""Give ``iterate(static, start, data, control) -> (theta, facts)`` its derivative in the data.

    .. math::
        \theta = T(\theta, x) \quad\Rightarrow\quad
        d\theta = (I - \partial_\theta T)^{-1}\, \partial_x T\, dx

    The system is solved by BiCGStab on products with :math:`\partial_\theta T`, and T is the live
    function of :math:`\theta` and x, so that the rule can be differentiated again. The start does
    not affect the fixed point. The derivative is NaN where it does not exist or is not reliable:
    where the iteration did not converge, :math:`\theta` is not a fixed point to half the digits,
    the map is not regular there, or the system is not solved.

    Args:
        iterate: The iteration; ``static`` is hashable, ``facts.converged`` tells whether it
            converged.
        step: The map T, ``step(static, theta, data) -> theta``.
        regular: ``regular(static, theta) -> bool``, whether the fixed point is isolated.

    Returns:
        The same function, differentiable.
    """
    iterate = custom_jvp(iterate, nondiff_argnums=(0,))

    @iterate.defjvp
    def rule(static, primals, tangents):
        data, data_tangent = primals[1], tangents[1]
        theta, facts = iterate(static, *primals)
        flatten, unflatten = _coordinates(theta)

        def T(v, data):
            return flatten(step(static, unflatten(v), data))

        v = flatten(theta)
        following, slope = jax.linearize(lambda v: T(v, data), v)
        rhs = jax.jvp(lambda data: T(v, data), (data,), (data_tangent,))[1]
        tangent = _solve(lambda u: u - slope(u), rhs)
        is_fixed = _tree.norm(following - v) <= 10 * jnp.finfo(v.dtype).eps ** 0.5 * _tree.norm(v)
        is_sound = facts.converged & is_fixed & regular(static, theta)
        tangent = unflatten(jnp.where(is_sound, 1, jnp.nan) * tangent)
        return (theta, facts), (tangent, jax.tree.map(no_tangent, facts))

    return iterate


def _coordinates(theta: PyTree) -> tuple[Callable, Callable]:
    """Return the maps to a vector in which every leaf is of order 1, and back."""

    def peak(leaf):
        size = jax.lax.stop_gradient(jnp.abs(leaf).max())
        return jnp.where((size > 0) & jnp.isfinite(size), size, 1)

    units = jax.tree.map(peak, theta)
    unravel = ravel_pytree(theta)[1]
    return (
        lambda tree: ravel_pytree(jax.tree.map(jnp.divide, tree, units))[0],
        lambda v: jax.tree.map(jnp.multiply, unravel(v), units),
    )


def _solve(matvec: Callable, b: Array) -> Array:
    eps = float(jnp.finfo(b.dtype).eps)

    def solve(matvec, b):
        x, _ = bicgstab(matvec, b, tol=10 * eps, maxiter=1000)
        residual = _tree.norm(matvec(x) - b)
        return jnp.where(residual <= eps**0.5 * _tree.norm(b), 1, jnp.nan) * x

    return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)
