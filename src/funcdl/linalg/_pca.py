"""Principal components, by the covariance or by random projections."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _check
from funcdl._numerics import exact, power_of_two, reciprocal
from funcdl._typing import Array, Float, Key, Scalar
from funcdl.linalg._derivative_order import refuse
from funcdl.linalg._eigenspace import eigenspace
from funcdl.linalg._eigh import eigen_factors
from funcdl.linalg._gram import gram_in_range
from funcdl.linalg._randomized_svd import krylov_basis, projected_gram
from funcdl.linalg._subspace import singular_subspace


class Pca(NamedTuple):
    """The k directions of largest variance of n samples.

    Attributes:
        mean: The mean of the samples, ``(d,)``.
        components: ``(k, d)``, orthonormal rows, by descending variance.
        variance: ``(k,)``, the variance along each component, with the divisor n - 1.
        ratio: ``(k,)``, its share in the total variance; 0 if the total is 0.
        gap: The distance of the k-th to the next variance (or singular value, if n < d), relative
            to the largest. Where it is of the order of rounding, the subspace has no derivative.
    """

    mean: Array
    components: Array
    variance: Array
    ratio: Array
    gap: Scalar

    def transform(self, x: Float[Array, "*n d"]) -> Float[Array, "*n k"]:
        """Return the coordinates of samples, ``(x - mean) @ components.T``.

        Raises:
            ValueError: If they do not have d coordinates.
        """
        self._check_last("x", x, len(self.mean), "d")
        return (x - jnp.broadcast_to(self.mean, x.shape)) @ self.components.T

    def inverse_transform(self, z: Float[Array, "*n k"]) -> Float[Array, "*n d"]:
        """Return the samples with these coordinates, ``z @ components + mean``.

        Raises:
            ValueError: If there are not k coordinates.
        """
        self._check_last("z", z, len(self.components), "k")
        x = z @ self.components
        return x + jnp.broadcast_to(self.mean, x.shape)

    def _check_last(self, name: str, x: Array, size: int, letter: str) -> None:
        if jnp.shape(x)[-1:] != (size,):
            raise ValueError(
                f"{name} has shape {jnp.shape(x)}; expected (..., {size}), since {letter} = {size}"
            )


@exact
def pca(x: Float[Array, "n d"], k: int) -> Pca:
    r"""Compute the k directions of largest variance, the eigenvectors of the covariance.

    They come from the covariance, centered block by block, or from the singular values of the
    centered samples if n < d or the k-th variance is small against the largest. Derivatives of
    invariants of the subspace, such as ``components.T @ components``, are right where ``gap`` is
    not 0: to first order always, to second order unless two variances agree to nearly half the
    digits (``eigenspace`` of the
    covariance: to every order). Those of a single component are right where its variance differs
    from the others in more than half the digits. The largest entry of a component in magnitude is
    positive.

    Args:
        x: The samples, ``(n, d)``, at least two.
        k: The number of components, 1 to min(n, d).

    Returns:
        Mean, components, variances, their shares and the gap.

    Raises:
        TypeError: If ``x`` is not of a real float dtype.
        ValueError: If ``x`` is not a matrix, holds NaN, or ``k`` is out of range.

    Source: Jolliffe, "Principal component analysis" (2002).

    >>> from funcdl import linalg
    >>> x = jnp.asarray([[3.0, 1.0], [-3.0, 1.0], [0.0, 1.0]])
    >>> result = linalg.pca(x, 1)
    >>> result.components.tolist(), result.variance.tolist(), result.transform(x[0]).tolist()
    ([[1.0, 0.0]], [9.0], [3.0])
    """
    return _pca(_checked(x, k), k)


class _Space(NamedTuple):
    """The subspace of the k largest variances, in a unit of x."""

    unit: Array
    basis: Array  # (d, k)
    core: Array  # (k, k), the covariance in this basis; its value is diagonal
    total: Array
    gap: Array


@partial(jax.jit, static_argnums=1)
def _pca(x: Array, k: int) -> Pca:
    n, d = x.shape
    mean = x.mean(axis=0)
    if n < d:
        return _principal(mean, _from_samples(x, mean, k))
    covariance, unit = gram_in_range(x, mean)
    covariance = covariance / (n - 1)
    basis, core, gap = eigenspace(covariance, k)
    space = _Space(jnp.asarray(unit, x.dtype), basis, core, jnp.trace(covariance), gap)
    # a variance below this share of the largest has lost half of its digits in the products
    share = float(jnp.finfo(x.dtype).eps) ** 0.5
    is_accurate = core[k - 1, k - 1] > share * core[0, 0]
    space = jax.lax.cond(is_accurate, lambda: space, lambda: _from_samples(x, mean, k))
    return _principal(mean, space)


def _from_samples(x: Array, mean: Array, k: int) -> _Space:
    """Find the subspace by singular values, which are not squared before they are known."""
    unit = power_of_two(x)
    centered = (x - mean[None]) / unit
    subspace = singular_subspace(centered, k)
    core = subspace.core.T @ subspace.core / (len(x) - 1)
    # rounding errors off the diagonal, small against the largest variance, are not against the last
    core = core + jax.lax.stop_gradient(jnp.diag(jnp.diag(core)) - core)
    total = jnp.sum(centered**2) / (len(x) - 1)
    return _Space(unit, subspace.v, core, total, subspace.gap)


@exact
def pca_randomized(
    key: Key[Array, ""], x: Float[Array, "n d"], k: int, *, power: int = 4, oversample: int = 10
) -> Pca:
    r"""Estimate the k directions of largest variance in a random Krylov space.

    The space is spanned by :math:`C G, C^2 G, \dots` with the covariance C and a random G of k +
    ``oversample`` columns: every product reads x once, and all of them are kept, which is far
    more accurate than the last alone. Worthwhile where both n and d are large. It has no
    derivative; differentiate ``pca``, at its cost.

    Args:
        key: The random key for G.
        x: The samples, ``(n, d)``.
        k: The number of components, 1 to min(n, d).
        power: The number of products with the covariance, at least 1.
        oversample: The number of columns in addition to k.

    Returns:
        The same fields as ``pca``; the gap is that of the computed values.

    Raises:
        TypeError: If ``x`` is not of a real float dtype or the key is not typed.
        ValueError: If ``x`` is not a matrix, holds NaN, or ``k`` or ``power`` is out of range.

    Source: Musco and Musco, "Randomized block Krylov methods" (2015); Halko, Martinsson and Tropp
    (2011).

    >>> from funcdl import linalg
    >>> x = jnp.asarray([[3.0, 1.0], [-3.0, 1.0], [0.0, 1.0]])
    >>> linalg.pca_randomized(jax.random.key(0), x, 1).variance.round(3).tolist()
    [9.0]
    """
    _check.check_key(key)
    x = _checked(x, k)
    x = refuse("pca_randomized has no derivative; differentiate pca", x)
    n, mean, unit = len(x), x.mean(axis=0), power_of_two(x)
    basis = krylov_basis(key, x, k + oversample, power, mean, unit)
    covariance = projected_gram(x, basis, mean, unit) / (n - 1)
    space = eigenspace(covariance, k)
    total = jnp.sum(((x - mean[None]) / unit) ** 2) / (n - 1)
    return _principal(mean, _Space(unit, basis @ space.v, space.core, total, space.gap))


def _checked(x: Array, k: int) -> Array:
    x = _check.matrix("x", x)
    if x.shape[0] < 2:
        raise ValueError(f"x has {x.shape[0]} samples; expected at least 2")
    _check.integer_in("k", k, 1, min(x.shape))
    _check.finite("x", x)
    return x


def _principal(mean: Array, space: _Space) -> Pca:
    """Rotate a basis to its principal directions; the rotation has exact invariants."""
    unit, basis, core, total, gap = space
    c = power_of_two(core)
    # for values closer than half the digits, rotating would cost the invariants more accuracy than
    # it would give the vectors
    tie = float(jnp.finfo(core.dtype).eps) ** 0.5
    variance, rotation = eigen_factors((core + core.T) / (2 * c), tie)
    components = (basis @ rotation).T
    largest = jnp.abs(components).argmax(axis=1)
    sign = jnp.sign(jnp.take_along_axis(components, largest[:, None], axis=1))
    variance = jnp.maximum(c * variance, 0)
    components = jax.lax.stop_gradient(sign) * components
    return Pca(
        mean=mean,
        components=components,
        variance=variance * unit * unit,
        ratio=variance * reciprocal(total),
        gap=gap,
    )
