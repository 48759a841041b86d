"""The trace, the diagonal and the Frobenius norm from products with random signs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import array, at_least, check_key
from funcdl._numerics import power_of_two
from funcdl._typing import Array, DTypeLike, Float, Key, PyTree
from funcdl.operators._core import checks
from funcdl.operators._core.build import check_operator
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Estimate
from funcdl.operators._core.views import raveled


# Signs, not normal vectors: the square of a sign is 1, so the diagonal of A adds no variance,
# which is the lowest among vectors of independent entries, and diagonal matrices are exact. Probes
# are mapped one at a time, and the diagonal keeps running sums, so that memory does not depend on
# their number. The probes are functions of the key alone, so derivatives are those of the estimate
# for the same probes. Source: Hutchinson (1990).
def trace(A: LinearOperator, *, key: Key[Array, ""], probes: int = 32) -> Estimate:
    r"""Estimate the trace, :math:`\operatorname{tr} A = E[z^\top A z]`, with random signs z.

    Suitable for operators of any size: one vector is held in memory, and the error is
    :math:`\sqrt{2 / \text{probes}}` times the Frobenius norm of the symmetric part of A off its
    diagonal. Where a basis of ``probes`` vectors fits into memory, ``xtrace`` is more accurate for
    the same products, by orders of magnitude where the spectrum decays; so is ``hutch_pp``, whose
    error bar rests on independent vectors. Where n products are affordable, ``A.dense().trace()``
    is exact.

    Args:
        A: A square operator.
        key: The random key for the probes.
        probes: The number of products, at least 2. The standard error falls with their root.

    Returns:
        The mean over the probes and its standard error, which itself is uncertain for few probes:
        an interval of 2 standard errors holds the trace in 95 % of cases for many probes, in 91 %
        for 8, in 70 % for 2 (Student's t). Derivatives, of any order, are those of the mean over
        the same probes.

    Raises:
        ValueError: If A is not square or ``probes < 2``.
        TypeError: If the key is not typed.

    Source: Hutchinson, "A stochastic estimator of the trace", Comm. Statistics 19 (1990).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.arange(1.0, 4.0)))  # exact: diagonal
    >>> operators.trace(A, key=jax.random.key(0), probes=2).value.item()
    6.0
    """
    check_probes(A, key, probes)
    checks.not_square(A)
    samples = _quadratic_forms(raveled(A), jax.random.split(key, probes))
    return sample_mean(samples, probes)


@jax.jit
def _quadratic_forms(a: LinearOperator, keys: Key[Array, " p"]) -> Array:
    def sample(key):
        z = signs(key, a.shape_in)
        return _tree.dot(z, a @ z)

    return jax.lax.map(sample, keys)


def diagonal(A: LinearOperator, *, key: Key[Array, ""], probes: int = 32) -> Estimate:
    r"""Estimate the diagonal, :math:`a_{ii} = E[z_i (A z)_i]`, with random signs z.

    The variance of entry i is :math:`\sum_{j \ne i} a_{ij}^2 / \text{probes}`, from the
    off-diagonal entries of its row. Three vectors are held in memory for any number of probes.

    Args:
        A: A square operator.
        key: The random key for the probes.
        probes: The number of products, at least 2.

    Returns:
        Value and standard error, trees like ``A.shape_in``, in at least float32. An interval of 2
        standard errors holds an entry in 95 % of cases for many probes, in 91 % for 8. Derivatives,
        of any order, are those of the mean over the same probes.

    Raises:
        ValueError: If A is not square or ``probes < 2``.
        TypeError: If the key is not typed.

    Source: Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix", Applied
    Numerical Mathematics 57 (2007).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.arange(1.0, 4.0)))  # exact: diagonal
    >>> operators.diagonal(A, key=jax.random.key(0), probes=2).value.tolist()
    [1.0, 2.0, 3.0]
    """
    check_probes(A, key, probes)
    checks.not_square(A)
    mean, stderr = _diagonal(A, jax.random.split(key, probes))
    return Estimate(mean, stderr, probes)


@jax.jit
def _diagonal(a: LinearOperator, keys: Key[Array, " p"]) -> tuple[PyTree, PyTree]:
    def step(seen, draw):
        key, count = draw
        z = signs(key, a.shape_in)
        samples = jax.tree.map(lambda z, az: (z * az).astype(_tree.wide(az.dtype)), z, a @ z)
        return jax.tree.map(lambda x, s: s.with_sample(x, count), samples, seen), None

    start = jax.tree.map(lambda x: _Moments.zero(x.shape, _tree.wide(x.dtype)), a.shape_in)
    count = len(keys)
    seen = jax.lax.scan(step, start, (keys, jnp.arange(1, count + 1)))[0]
    is_leaf = lambda x: isinstance(x, _Moments)
    return (
        jax.tree.map(lambda s: s.mean, seen, is_leaf=is_leaf),
        jax.tree.map(lambda s: s.stderr(count), seen, is_leaf=is_leaf),
    )


class _Moments(NamedTuple):
    """Running mean and squares, so that no sample is kept (Welford, 1962).

    Attributes:
        mean: The mean of each entry.
        square: The sum of the squares around the mean, in the unit squared.
        unit: A power of two for each entry, in which no square leaves the range.
    """

    mean: Array
    square: Array
    unit: Array

    @classmethod
    def zero(cls, shape: tuple[int, ...], dtype: DTypeLike) -> "_Moments":
        zero = jnp.zeros(shape, dtype)
        return cls(zero, zero, power_of_two(zero + jnp.finfo(dtype).tiny, axis=()))

    def with_sample(self, x: Array, count: Array) -> "_Moments":
        off = x - self.mean
        larger = jnp.maximum(self.unit, power_of_two(off, axis=()))
        unit = jnp.where(off == 0, self.unit, larger)
        square, off_in_unit = self.square * (self.unit / unit) ** 2, off / unit
        square = square + off_in_unit * (off_in_unit - off_in_unit / count)
        return _Moments(self.mean + off / count, square, unit)

    def stderr(self, count: int) -> Array:
        return self.unit * _tree.sqrt(self.square / (count * (count - 1)))


def frobenius(A: LinearOperator, *, key: Key[Array, ""], probes: int = 32) -> Estimate:
    r"""Estimate the Frobenius norm, :math:`\|A\|_F^2 = E |A z|^2`, with random signs z.

    Args:
        A: Any operator, including rectangular ones.
        key: The random key for the probes.
        probes: The number of products, at least 2.

    Returns:
        The root of the mean square and its standard error by the delta method,
        :math:`\sigma(\|A\|_F^2) / (2 \|A\|_F)`. The square is unbiased; the root is low by the
        fraction :math:`(\text{stderr} / \text{value})^2 / 2`. Derivatives, of any order, are those
        of the value for the same probes.

    Raises:
        ValueError: If ``probes < 2``.
        TypeError: If the key is not typed.

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([2.0, 3.0, 6.0])))  # exact: diagonal
    >>> operators.frobenius(A, key=jax.random.key(0), probes=2).value.round(4).item()
    7.0
    """
    check_probes(A, key, probes)
    value, stderr = _frobenius(A, jax.random.split(key, probes))
    return Estimate(value, stderr, probes)


@jax.jit
def _frobenius(a: LinearOperator, keys: Key[Array, " p"]) -> tuple[Array, Array]:
    lengths = jax.lax.map(lambda key: _tree.norm(a @ signs(key, a.shape_in)), keys)
    unit = power_of_two(lengths)  # in this unit nothing overflows, not even in derivatives
    lengths = lengths / unit
    root = _tree.norm(lengths) / len(keys) ** 0.5
    squares = (lengths / jnp.where(root > 0, root, 1)) ** 2
    stderr = root * sample_mean(squares).stderr / 2
    return unit * root, unit * stderr


def sample_mean(samples: Float[Array, "s ..."], matvecs: Array | int = 0) -> Estimate:
    """Average independent samples over their leading axis.

    Args:
        samples: ``(s, ...)``.
        matvecs: The number of products with an operator that they took.

    Returns:
        The mean and its standard error, which is NaN for a single sample.

    >>> sample_mean(jnp.asarray([1.0, 3.0])).stderr.item()
    1.0
    """
    array("samples", samples)
    samples = jnp.asarray(samples)
    if samples.ndim == 0 or not len(samples):
        raise ValueError(f"samples has shape {samples.shape}; expected (s, ...) with s >= 1")
    count = samples.shape[0]
    mean = samples.mean(axis=0)
    if count == 1:
        return Estimate(mean, jnp.full_like(mean, jnp.nan), matvecs)
    off = samples - mean[None]
    unit = power_of_two(off, axis=0)  # squares of small numbers would be 0, a false certainty
    square = ((off / unit[None]) ** 2).sum(axis=0)
    return Estimate(mean, unit * _tree.sqrt(square / (count * (count - 1))), matvecs)


def signs(key: Key[Array, ""], like: PyTree) -> PyTree:
    """Draw random signs, a vector like ``like``."""
    return _tree.random(key, like, jax.random.rademacher)


def check_probes(a: LinearOperator, key: object, probes: int) -> None:
    """Raise an error if the arguments of an estimate are unusable.

    Raises:
        ValueError: If there are fewer than 2 probes.
        TypeError: If ``a`` is not a ``LinearOperator`` or the key is not typed.
    """
    check_operator(a)
    check_key(key)
    at_least("probes", probes, 2, "(one alone has no error bar)")
