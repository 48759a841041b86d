"""The largest singular values of a large matrix, from its products with a few random vectors."""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import decomposed, exact, power_of_two
from funcdl._typing import Array, ArrayLike, Float, Key
from funcdl.linalg._derivative_order import refuse
from funcdl.linalg._gram import gram, gram_product
from funcdl.linalg._svd import Svd, relative_gap, thin_svd


@exact
def randomized_svd(
    key: Key[Array, ""], a: Float[Array, "m n"], k: int, *, power: int = 4, oversample: int = 10
) -> Svd:
    r"""Estimate the k largest singular values and vectors in a random Krylov space.

    The space is spanned by :math:`(A^\top A) G, (A^\top A)^2 G, \dots` for a random G of k +
    ``oversample`` columns: every product reads A once, and all of them are kept, which is far more
    accurate than the last alone. It has no derivative; differentiate ``svd`` or
    ``singular_subspace``, at their cost.

    Args:
        key: The random key for G.
        a: The matrix, ``(m, n)``.
        k: The number of singular values, 1 to min(m, n).
        power: The number of products, at least 1.
        oversample: The number of columns in addition to k.

    Returns:
        The fields of ``svd``, cut to k; the gap is that of the k values.

    Raises:
        TypeError: If ``a`` is not of a real float dtype or the key is not typed.
        ValueError: If ``a`` is not a matrix, or ``k`` or ``power`` is out of range.

    Source: Musco and Musco, "Randomized block Krylov methods for stronger and faster approximate
    singular value decomposition" (2015).

    >>> from funcdl import linalg
    >>> a = jnp.diag(jnp.asarray([3.0, 1.0, 4.0]))
    >>> linalg.randomized_svd(jax.random.key(0), a, 2).s.round(3).tolist()
    [4.0, 3.0]
    """
    _check.check_key(key)
    a = _check.matrix("a", a)
    _check.integer_in("k", k, 1, min(a.shape))
    if a.shape[0] < a.shape[1]:
        transposed = randomized_svd(key, a.T, k, power=power, oversample=oversample)
        return Svd(u=transposed.v, s=transposed.s, v=transposed.u, gap=transposed.gap)
    a = refuse(
        "randomized_svd has no derivative; differentiate svd, singular_subspace or "
        "low_rank_approximation",
        a,
    )
    c = power_of_two(a)
    basis = krylov_basis(key, a / c, k + oversample, power)
    u, s, vt = decomposed(thin_svd, a / c @ basis)
    gap = relative_gap(s[: k - 1] - s[1:k], s)
    return Svd(u[:, :k], c * s[:k], basis @ vt[:k].T, gap)


@partial(jax.jit, static_argnums=(2, 3))
def krylov_basis(
    key: Key[Array, ""],
    x: Array,
    width: int,
    power: int,
    mean: Array | None = None,
    unit: ArrayLike = 1.0,
) -> Array:
    r"""Return an orthonormal basis of :math:`C G, \dots, C^p G` with the Gram matrix C of x.

    Args:
        key: The random key for G.
        x: The rows, ``(n, d)``.
        width: The number of columns of G.
        power: The number of products, p.
        mean: The center, as in ``gram``.
        unit: The unit, as in ``gram``.

    Returns:
        ``(d, min(d, p width))``.

    Raises:
        TypeError: If ``power`` or ``width`` is not an integer.
        ValueError: If one is below 1.
    """
    if _check.integer("power", power) < 1 or _check.integer("width", width) < 1:
        raise ValueError(f"power is {power}, columns are {width}; expected at least 1 of each")
    width = min(width, x.shape[1])
    start = jax.random.normal(key, (x.shape[1], width), x.dtype)

    def step(y, _):
        y = jnp.linalg.qr(gram_product(x, y, mean, unit))[0]
        return y, y

    _, blocks = jax.lax.scan(step, start, length=power)
    return jnp.linalg.qr(jnp.concatenate(list(blocks), axis=1))[0]


def projected_gram(x: Array, basis: Array, mean: Array, unit: Array) -> Array:
    """Return the Gram matrix of x in a basis, ``basisᵀ C basis``."""
    return gram(x @ basis, mean @ basis, unit)
