"""Subspaces of the largest eigenvalues of symmetric matrices, right to every order."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal, rounding
from funcdl._typing import Array, Float, Scalar
from funcdl.linalg._eigh import eigen_factors, symmetric_part
from funcdl.linalg._svd import outside, relative_gap


class Eigenspace(NamedTuple):
    r"""The subspace of the k largest eigenvalues.

    Attributes:
        v: ``(n, k)``, an orthonormal basis.
        core: ``(k, k)``, :math:`V^\top A V`; its value is diagonal, its derivatives are not.
        gap: :math:`(w_k - w_{k+1}) / \max |w|`. Where it is of the order of rounding, none of these
            fields has a derivative: the computed one is finite and meaningless.
    """

    v: Array
    core: Array
    gap: Scalar


@exact
def eigenspace(a: Float[Array, "n n"], k: int) -> Eigenspace:
    r"""Compute the subspace of the k largest eigenvalues of a symmetric matrix.

    Quantities that do not depend on the choice of basis, such as :math:`V V^\top` or the trace of
    the core, are right to every order at any tie on either side of the gap; the basis itself moves
    so that :math:`V^\top dV = 0`. The derivative solves :math:`dV\,B - P A\,dV = P\,dA\,V` with the
    core B and :math:`P = I - V V^\top`.

    Args:
        a: The matrix, ``(n, n)``; :math:`(A + A^\top)/2` is used.
        k: The dimension of the subspace, 1 to n.

    Returns:
        Basis, core and gap.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a square matrix or ``k`` is out of range.

    >>> from funcdl import linalg
    >>> linalg.eigenspace(jnp.diag(jnp.asarray([1.0, -4.0, 3.0])), 2).gap.item()
    1.25
    """
    a = _check.square("a", a)
    _check.integer_in("k", k, 1, len(a))
    c = power_of_two(a)
    a = symmetric_part(a / c)
    v, (w, _) = _frame(k, a)
    return Eigenspace(v, c * (v.T @ a @ v), relative_gap(w[k - 1 : k] - w[k : k + 1], w))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _frame(k: int, a: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return V, which is differentiable, and all factors, which are not."""
    w, v = eigen_factors(a)
    return v[:, :k], jax.lax.stop_gradient((w, v))


@_frame.defjvp
@exact
def _frame_jvp(k: int, primals: tuple, tangents: tuple) -> tuple:
    # The equation is written with live matrices and solved by stopped ones, so that derivatives of
    # derivatives come from the equation again.
    (a,), (da,) = primals, tangents
    v, known = _frame(k, a)
    core = v.T @ a @ v

    def equation(x):  # the identity on the frame itself, which makes it regular
        y = outside(v, x)
        return outside(v, y @ core - a @ y) + (x - y)

    solve = partial(_solve, jax.lax.stop_gradient((v, known)))
    dv = jax.lax.custom_linear_solve(
        equation, outside(v, da @ v), lambda _, b: solve(b), transpose_solve=lambda _, b: solve(b)
    )
    return (v, known), (outside(v, dv), jax.tree.map(jnp.zeros_like, known))


def _solve(stopped: tuple, rhs: Array) -> Array:
    """Solve the equation at the current point, where the core is diagonal."""
    v, (w, all_v) = stopped
    k = v.shape[1]
    r, other_v = outside(v, rhs), all_v[:, k:]
    distance = w[None, :k] - w[k:, None]
    x = other_v @ ((other_v.T @ r) * reciprocal(distance, rounding(w, (len(w),))))
    return x + (rhs - r)
