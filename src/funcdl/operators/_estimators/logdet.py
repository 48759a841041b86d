"""The log-determinant from products; its derivatives come from solves, not from Lanczos."""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl._check import concrete, penalty
from funcdl._numerics import custom_jvp
from funcdl._typing import Array, ArrayLike, Key
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Estimate
from funcdl.operators._core.space import Action, space
from funcdl.operators._core.views import raveled
from funcdl.operators._estimators.hutchinson import check_probes, sample_mean
from funcdl.operators._estimators.lanczos_quadrature import check_steps, quadrature
from funcdl.operators._solvers.cg import cg


def logdet(
    A: LinearOperator,
    *,
    key: Key[Array, ""],
    probes: int = 32,
    steps: int = 20,
    damping: ArrayLike = 0.0,
) -> Estimate:
    r"""Estimate :math:`\log\det(A + \lambda I) = E[z^\top \log(A + \lambda I) z]`, random signs z.

    Stochastic Lanczos quadrature. Derivatives, of any order, are those of the estimate
    :math:`E[z^\top (A + \lambda I)^{-1} dA\, z]` with the same probes, one solve per probe by
    conjugate gradients; they are NaN where these do not converge. The second derivative of one
    estimate is not symmetric, but its mean is. ``A.logdet()`` is exact where A has a closed form.

    Args:
        A: An operator marked psd, or a symmetric one with a damping that makes it positive.
        key: The random key for the probes.
        probes: The number of probes, at least 2; they are held in memory.
        steps: The number of Lanczos steps per probe, at most n. The quadrature is too high by an
            amount that falls as :math:`\exp(-4\,\text{steps} / \sqrt\kappa)`, where :math:`\kappa`
            is the condition number of :math:`A + \lambda I`; the standard error does not include
            it.
        damping: The damping :math:`\lambda \ge 0`.

    Returns:
        The mean over the probes and its standard error; 95 % of the intervals of 2 standard errors
        hold the truth. The result is NaN where a Ritz value is negative: the operator is then not
        positive.

    Raises:
        ValueError: If A is not square, not marked symmetric, or neither psd nor damped; if
            ``probes < 2`` or ``steps < 1``; if the damping is negative.
        TypeError: If the key is not typed.

    Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature",
    SIAM J. Matrix Anal. Appl. 38 (2017).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, 2.0, 4.0])), psd=True)
    >>> operators.logdet(A, key=jax.random.key(0), probes=2).value.round(4).item()  # log 8
    2.0794
    """
    check_probes(A, key, probes)
    steps = check_steps(A, steps)
    penalty("damping", damping)
    if not A.psd and concrete(damping) == 0:
        raise ValueError(
            "A is not marked psd; the log-determinant needs a positive operator: pass a damping "
            "above -λ_min, or build A with psd=True"
        )
    samples = _samples(raveled(A).shift(damping), key, probes, steps)
    return sample_mean(samples, probes * steps)


@partial(jax.jit, static_argnums=(2, 3))
def _samples(a: LinearOperator, key: Key[Array, ""], probes: int, steps: int) -> Array:
    dtype = a.space_out.leaves[0].dtype
    z = jax.random.rademacher(key, (probes, a.space_in.size), jnp.promote_types(dtype, jnp.float32))
    return _quadratic_logs(a, z, steps)


@partial(custom_jvp, nondiff_argnums=(2,))
def _quadratic_logs(a: LinearOperator, z: Array, steps: int) -> Array:
    """Return ``zᵀ log(A) z`` for every row of z."""

    def one(z):
        nodes, weights = quadrature(a, z, steps)
        held = weights > 0
        return z.size * (weights * jnp.log(jnp.where(held, nodes, 1))).sum()

    return jax.lax.map(one, z)


@_quadratic_logs.defjvp
def _quadratic_logs_jvp(steps: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (a, z), (da, _) = primals, tangents
    # all probes are solved together, as one system
    solution = cg(_stacked(a, len(z)), z, tol=float(jnp.finfo(z.dtype).eps) ** 0.5)
    sound = jnp.where(solution.converged, 1, jnp.nan)
    da_z = jax.jvp(lambda a: a.mm(z).astype(z.dtype), (a,), (da,))[1]
    return _quadratic_logs(a, z, steps), sound * (solution.x * da_z).sum(axis=1)


def _stacked(a: LinearOperator, count: int) -> LinearOperator:
    """Apply an operator on ``(n,)`` to each row of a matrix, which counts as one vector."""
    n, dtype = a.space_in.size, a.space_in.leaves[0].dtype
    rows = space(jax.ShapeDtypeStruct((count, n), dtype))
    return LinearOperator(_ROWS, a, rows, rows, a.symmetric, a.psd)


_ROWS = Action(lambda a, v: a.mm(v), lambda a, w: a.T.mm(w))
