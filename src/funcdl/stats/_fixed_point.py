"""Derivatives of what an iteration converges to, without looking into the iteration."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import bicgstab

from funcdl import _tree
from funcdl._numerics import no_tangent


def differentiable(iterate: Callable, step: Callable, regular: Callable) -> Callable:
    r"""Give ``iterate(static, start, data, control) -> (theta, facts)`` its derivative in the data.

    .. math::
        \theta = T(\theta, x) \quad\Rightarrow\quad
        d\theta = (I - \partial_\theta T)^{-1}\, \partial_x T\, dx

    The system is solved by BiCGStab on products with :math:`\partial_\theta T`, and T is the live
    function of :math:`\theta` and x, so that the rule can be differentiated again. The start has no
    influence on the fixed point. The derivative is NaN where there is none: where the iteration did
    not converge, :math:`\theta` is no fixed point to half the digits, the map is not regular there,
    or the system is not solved.

    Args:
        iterate: Runs the iteration; ``static`` is hashable, ``facts.converged`` is its verdict.
        step: T, ``step(static, theta, data) -> theta``.
        regular: ``regular(static, theta) -> bool``, whether the fixed point is isolated.

    Returns:
        The same function, differentiable.
    """
    iterate = jax.custom_jvp(iterate, nondiff_argnums=(0,))

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
        small = _tree.norm(following - v) <= 10 * jnp.finfo(v.dtype).eps ** 0.5 * _tree.norm(v)
        sound = facts.converged & small & regular(static, theta)
        tangent = unflatten(jnp.where(sound, 1, jnp.nan) * tangent)
        return (theta, facts), (tangent, jax.tree.map(no_tangent, facts))

    return iterate


def _coordinates(theta):
    """Return the maps to a vector and back in which every leaf is of order 1."""

    def peak(leaf):
        size = jax.lax.stop_gradient(jnp.abs(leaf).max())
        return jnp.where((size > 0) & jnp.isfinite(size), size, 1)

    units = jax.tree.map(peak, theta)
    unravel = ravel_pytree(theta)[1]
    return (
        lambda tree: ravel_pytree(jax.tree.map(jnp.divide, tree, units))[0],
        lambda v: jax.tree.map(jnp.multiply, unravel(v), units),
    )


def _solve(matvec: Callable, b):
    eps = jnp.finfo(b.dtype).eps

    def solve(matvec, b):
        x, _ = bicgstab(matvec, b, tol=10 * eps, maxiter=1000)
        left = _tree.norm(matvec(x) - b)
        return jnp.where(left <= eps**0.5 * _tree.norm(b), 1, jnp.nan) * x

    return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)
