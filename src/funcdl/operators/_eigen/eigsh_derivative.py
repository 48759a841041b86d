"""Derivatives of eigenpairs, of any order, without differentiating the iteration."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._numerics import custom_jvp, no_tangent, power_of_two
from funcdl._typing import Array, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import EigenPairs
from funcdl.operators._solvers import refinement
from funcdl.operators._solvers.cg import cg_pass


def differentiable(solve: Callable) -> Callable:
    r"""Give ``solve(want, A, key) -> EigenPairs`` its derivatives in the operands of A.

    .. math::
        d\lambda_i = v_i^\top dA\, v_i, \qquad
        d v_i = \sum_{j \ne i} v_j \frac{v_j^\top dA\, v_i}{\lambda_i - \lambda_j}
              + (\lambda_i - A)^{+}_{\perp V}\, dA\, v_i

    The last term is a solve on the complement of the computed pairs, where
    :math:`\lambda_i - A` is definite since these pairs are the extreme ones. The rule calls
    ``solve`` again, so that it can be differentiated itself. Derivatives are NaN for pairs that did
    not converge, and for vectors of a repeated eigenvalue, which have none.

    Args:
        solve: A function that returns the pairs and nothing else.

    Returns:
        The same function, differentiable.
    """
    solve = custom_jvp(solve, nondiff_argnums=(0,))

    @solve.defjvp
    def rule(want, primals, tangents):
        a, key = primals
        pairs = solve(want, a, key)
        v = pairs.vectors
        # the operands have tangents; the vectors are held fixed
        da_v = jax.jvp(lambda a: _wide(a.mm(v), v), (a,), (tangents[0],))[1]
        coupling = jax.vmap(partial(_tree.project, v))(da_v)  # (i, j): v_j . dA v_i
        sound = jnp.where(pairs.converged, 1, jnp.nan)
        noise = 10 * jnp.finfo(coupling.dtype).eps * jnp.abs(pairs.values).max()
        blur = jnp.maximum(pairs.residuals[:, None] + pairs.residuals[None, :], noise)
        gaps = pairs.values[:, None] - pairs.values[None, :]
        gaps = jnp.where(jnp.abs(gaps) > blur, gaps, jnp.nan)  # values that cannot be told apart
        same = jnp.eye(want.k, dtype=bool)
        coefficients = jnp.where(same, 0, coupling) / jnp.where(same, 1, gaps)
        sign = {"LM": jnp.where(pairs.values < 0, -1, 1), "LA": 1, "SA": -1}[want.which]
        sign = jnp.broadcast_to(jnp.asarray(sign, coupling.dtype), want.k)

        unit = power_of_two(pairs.values)

        def one(args):
            value, s, rhs, c, ok = args
            outside = _complement_solve(a, v, value, s, rhs, unit)
            return _tree.scale(ok, _tree.add(_tree.combine(v, c), outside))

        each = pairs.values, sign, da_v, coefficients, sound
        tangent = EigenPairs(
            values=jnp.diag(coupling) * sound,
            vectors=jax.lax.map(one, each),
            residuals=jnp.zeros_like(pairs.residuals),
            converged=no_tangent(pairs.converged),
            matvecs=no_tangent(pairs.matvecs),
        )
        return pairs, tangent

    return solve


def _complement_solve(
    a: LinearOperator, v: PyTree, value: Array, sign: Array, rhs: PyTree, unit: Array
) -> PyTree:
    """Solve ``(value - A) x = rhs`` on the complement of the vectors ``v``, by CG."""
    # the result is NaN where CG fails, as it does where the complement has eigenvalue `value` too

    def complement(x):
        return _tree.subtract(x, _tree.combine(v, _tree.project(v, x)))

    def matvec(x):  # a multiple of the identity on the span of v: it is definite everywhere
        y = complement(x)
        image = _tree.axpy(-1, _wide(a @ y, y), _tree.scale(value, y))
        return _tree.axpy(sign, complement(image), _tree.scale(unit, _tree.subtract(x, y)))

    def solve(matvec, b):
        one_pass = partial(cg_pass, matvec, lambda r: r)
        eps = jnp.finfo(value.dtype).eps
        end = refinement.refined(
            one_pass,
            matvec,
            b,
            _tree.zeros(b),
            lambda x, r, b, size: refinement.relative(r, b),
            (10 * eps, 1000),
        )
        return _tree.scale(jnp.where(end.error <= eps**0.5, 1, jnp.nan), end.x)

    # transpose_solve rather than symmetric=True, which gives wrong second derivatives
    b = _tree.scale(sign, complement(rhs))
    return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)


def _wide(x: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a.astype(b.dtype), x, like)
