"""The determinant, with derivatives that are correct at singular matrices."""

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import decomposed, exact
from funcdl._typing import Array, Float, Scalar
from funcdl.linalg._derivative_order import last
from funcdl.linalg._svd import thin_svd


def det(a: Float[Array, "n n"]) -> Scalar:
    r"""Compute the determinant.

    Its gradient is the cofactor matrix; with :math:`A = U S V^\top` and
    :math:`\hat E = U^\top E V`

    .. math::
        \operatorname{cof} A &= \pm U \operatorname{diag}\Big(\prod_{j \ne i} s_j\Big) V^\top \\
        D^2 \det(A)[E, F] &= \pm \sum_{i \ne j} \Big(\prod_{l \ne i, j} s_l\Big)
            (\hat E_{ii} \hat F_{jj} - \hat E_{ij} \hat F_{ji})

    without a division, so both are right at any rank.

    Args:
        a: The matrix, ``(n, n)``.

    Returns:
        The determinant. A third derivative raises an error.

    Raises:
        TypeError: If ``a`` is not of a real float dtype.
        ValueError: If ``a`` is not a square matrix.

    >>> from funcdl import linalg
    >>> linalg.det(jnp.asarray([[1.0, 2.0], [3.0, 4.0]])).round(4).item()
    -2.0
    """
    return _det(_check.square("a", a))


@jax.custom_jvp
def _det(a: Array) -> Scalar:
    return jnp.linalg.det(a)


@_det.defjvp
@exact
def _det_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a,), (da,) = primals, tangents
    return _det(a), jnp.vdot(_cofactors(a), da)


@jax.custom_jvp
@exact
def _cofactors(a: Array) -> Array:
    u, s, v, sign = _signed_factors(a)
    return sign * (u * _products_of_others(s)[None]) @ v.T


@_cofactors.defjvp
@exact
def _cofactors_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a,), (da,) = primals, tangents
    u, s, v, sign = _signed_factors(last("det", a))
    same = jnp.eye(len(s), dtype=bool)
    pairs = jax.vmap(_products_of_others)(jnp.where(same, 1, s[None]))
    pairs = jnp.where(same, 0, pairs)
    c = u.T @ da @ v
    minors = jnp.diag(pairs @ jnp.diag(c)) - pairs * c.T
    return _cofactors(a), sign * u @ minors @ v.T


def _products_of_others(s: Array) -> Array:
    """Return, for every i, the product of all other entries, without a division."""
    one = jnp.ones(1, s.dtype)
    before = jnp.concatenate([one, jnp.cumprod(s)[:-1]])
    after = jnp.concatenate([one, jnp.cumprod(s[::-1])[:-1]])[::-1]
    return before * after


def _signed_factors(a: Array) -> tuple[Array, Array, Array, Array]:
    u, s, vt = decomposed(thin_svd, a)
    return u, s, vt.T, jnp.sign(jnp.linalg.det(u) * jnp.linalg.det(vt))
