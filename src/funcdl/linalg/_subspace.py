r"""Subspaces of the largest singular values, right to every order wherever there is a gap.

A frame (U, V) of the k largest singular values satisfies, with :math:`B = U^\top A V` and the
projectors :math:`P = I - U U^\top`, :math:`Q = I - V V^\top`,

.. math:: P A V = 0, \qquad Q A^\top U = 0.

Differentiated, this is a linear system for (dU, dV), regular as long as :math:`s_k > s_{k+1}`,
whatever ties there are inside and outside. It is written with live matrices and solved by stopped
ones, so that derivatives of derivatives come from the equations again.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal, rounding
from funcdl._typing import Array, Float, Scalar
from funcdl.linalg._svd import factors, outside, relative_gap


class Subspace(NamedTuple):
    r"""The subspaces of the k largest singular values.

    Attributes:
        u: ``(m, k)``, an orthonormal basis of the left subspace.
        core: ``(k, k)``, :math:`U^\top A V`; its value is diagonal, its derivatives are not.
        v: ``(n, k)``, an orthonormal basis of the right subspace.
        gap: :math:`(s_k - s_{k+1}) / s_1`. Where it is of the order of rounding, none of these
            fields has a derivative: the computed one is finite and meaningless.
    """

    u: Array
    core: Array
    v: Array
    gap: Scalar


@exact
def singular_subspace(a: Float[Array, "m n"], k: int) -> Subspace:
    r"""Compute the subspaces of the k largest singular values.

    Quantities that do not depend on the choice of the two bases are right to every order, at any
    tie on either side of the gap: :math:`U U^\top`, :math:`U (U^\top A V) V^\top`, the singular
    values of the core (but not its trace, which changes as U turns against V). The bases themselves
    move so that :math:`U^\top dU = 0` and :math:`V^\top dV = 0`.

    Args:
        a: The matrix, ``(m, n)``.
        k: The dimension of the subspaces, 1 to min(m, n).

    Returns:
        Bases, core and gap.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix or ``k`` is out of range.

    >>> from funcdl import linalg
    >>> linalg.singular_subspace(jnp.diag(jnp.asarray([1.0, 4.0, 3.0])), 2).gap.item()
    0.5
    """
    a, c = _scaled(a, k)
    u, v, (_, s, _) = _frames(k, a)
    return Subspace(u, c * (u.T @ a @ v), v, relative_gap(_edge(s, k, a.shape), s))


@exact
def projector(a: Float[Array, "m n"], k: int) -> Float[Array, "m m"]:
    r"""Compute the projector :math:`U_k U_k^\top` on the k leading left singular vectors.

    It is right to every order where :math:`s_k > s_{k+1}`; see ``singular_subspace`` for the gap.

    Args:
        a: The matrix, ``(m, n)``; the projector on the right vectors is that of ``a.T``.
        k: The dimension, 1 to min(m, n).

    Returns:
        ``(m, m)``.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix or ``k`` is out of range.

    >>> from funcdl import linalg
    >>> linalg.projector(jnp.diag(jnp.asarray([1.0, 2.0])), 1).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    u = _frames(k, _scaled(a, k)[0])[0]
    return u @ u.T


@exact
def low_rank_approximation(a: Float[Array, "m n"], k: int) -> Float[Array, "m n"]:
    r"""Compute the nearest matrix of rank k, :math:`\sum_{i \le k} s_i u_i v_i^\top`.

    It is nearest in every unitarily invariant norm, and right to every order where
    :math:`s_k > s_{k+1}`.

    Args:
        a: The matrix, ``(m, n)``.
        k: The rank, 1 to min(m, n); at min(m, n) the result is A.

    Returns:
        ``(m, n)``.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a matrix or ``k`` is out of range.

    Source: Eckart and Young (1936); Mirsky (1960).

    >>> from funcdl import linalg
    >>> linalg.low_rank_approximation(jnp.diag(jnp.asarray([1.0, 4.0, 3.0])), 2).diagonal().tolist()
    [0.0, 4.0, 3.0]
    """
    a, c = _scaled(a, k)
    if k == min(a.shape):
        return c * a
    u, v, _ = _frames(k, a)
    return c * (u @ (u.T @ a @ v) @ v.T)


def _scaled(a: Array, k: int) -> tuple[Array, Scalar]:
    a = _check.matrix("a", a)
    _check.integer_in("k", k, 1, min(a.shape))
    c = power_of_two(a)
    return a / c, c


def _edge(s: Array, k: int, shape: tuple[int, ...]) -> Array:
    if k < len(s):
        return s[k - 1 : k] - s[k : k + 1]
    return s[k - 1 : k] if shape[0] != shape[1] else s[:0]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _frames(k: int, a: Array) -> tuple[Array, Array, tuple[Array, Array, Array]]:
    """Return (U, V), which are differentiable, and all factors, which are not."""
    u, s, v = factors(a)
    return u[:, :k], v[:, :k], jax.lax.stop_gradient((u, s, v))


@_frames.defjvp
@exact
def _frames_jvp(k: int, primals: tuple, tangents: tuple) -> tuple:
    (a,), (da,) = primals, tangents
    u, v, known = _frames(k, a)
    core = u.T @ a @ v

    def equations(x, y):  # the identity on the frames themselves, which makes them regular
        xp, yp = outside(u, x), outside(v, y)
        left = outside(u, xp @ core - a @ yp)
        right = outside(v, yp @ core.T - a.T @ xp)
        return left + (x - xp), right + (y - yp)

    rhs = outside(u, da @ v), outside(v, da.T @ u)
    solve = partial(_solve, jax.lax.stop_gradient((u, v, known)))
    du, dv = jax.lax.custom_linear_solve(
        lambda xy: equations(*xy), rhs, lambda _, b: solve(b), transpose_solve=lambda _, b: solve(b)
    )
    zero = jax.tree.map(jnp.zeros_like, known)
    return (u, v, known), (outside(u, du), outside(v, dv), zero)


def _solve(stopped: tuple, rhs: tuple[Array, Array]) -> tuple[Array, Array]:
    """Solve the equations at the current point, where they are symmetric and the core diagonal."""
    u, v, (all_u, s, all_v) = stopped
    k, noise = u.shape[1], rounding(s, (len(u), len(v)))
    kept, other = s[None, :k], s[k:, None]
    r, q = outside(u, rhs[0]), outside(v, rhs[1])
    p, o = all_u[:, k:].T @ r, all_v[:, k:].T @ q
    plus = (p + o) * reciprocal(kept - other, noise)
    minus = (p - o) * reciprocal(kept + other, noise)
    x, y = all_u[:, k:] @ ((plus + minus) / 2), all_v[:, k:] @ ((plus - minus) / 2)
    if len(u) > len(s):  # the part that belongs to no singular value
        x = x + outside(all_u, r) * reciprocal(kept, noise)
    if len(v) > len(s):
        y = y + outside(all_v, q) * reciprocal(kept, noise)
    return x + (rhs[0] - r), y + (rhs[1] - q)
