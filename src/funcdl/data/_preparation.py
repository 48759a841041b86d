"""Preparation of a table before training: split and standardize."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._check import array, check_key
from funcdl._typing import Array, Key, PyTree, Scalar
from funcdl.data._checks import DataError, check
from funcdl.data._datasets import Split


def split(arrays: PyTree, fraction: float, *, key: Key[Array, ""]) -> Split:
    """Split a data set at random.

    Args:
        arrays: A pytree of arrays with a leading axis of examples.
        fraction: The fraction of the examples in the second part, ``test``, rounded to whole
            examples.
        key: The key that draws the examples.

    Returns:
        ``Split(train, test)``, both of the form of ``arrays``; every example is in exactly one of
        the two.

    Raises:
        DataError: If the data is empty, ragged or not finite.
        TypeError: If a leaf is not a numeric array, or the key is not typed.
        ValueError: If a part would be empty.

    >>> train, test = split(np.arange(10.0), 0.3, key=jax.random.key(0))
    >>> len(train), len(test), sorted({*train.tolist(), *test.tolist()}) == list(range(10))
    (7, 3, True)
    """
    check_key(key)
    count = check(arrays)
    test_count = round(count * fraction)
    if not 0 < test_count < count:
        raise ValueError(
            f"fraction is {fraction}, which selects {test_count} of {count} examples; both parts "
            "need at least one"
        )
    order = np.asarray(jax.random.permutation(key, count))
    part = lambda index: jax.tree.map(lambda leaf: leaf[index], arrays)
    return Split(train=part(order[test_count:]), test=part(order[:test_count]))


class Standardization(NamedTuple):
    r"""An affine map to mean 0 and variance 1, :math:`z = (x - \mu) / \sigma`.

    It is a function of one point, and on the host also of a NumPy table, ``(n, d)``. The
    log-density of z plus ``log_det`` is the log-density of x in its own units.

    Attributes:
        mean: ``(d,)``, the means of the columns.
        scale: ``(d,)``, the standard deviations of the columns.
    """

    mean: Array | np.ndarray
    scale: Array | np.ndarray

    def __call__(self, x: Any) -> Any:
        return (x - self.mean) / self.scale

    def inverse(self, z: Any) -> Any:
        """Map z back to the units of x."""
        return z * self.scale + self.mean

    @property
    def log_det(self) -> Scalar:
        r"""The log-determinant of the map, :math:`-\sum_i \log \sigma_i`."""
        return -jnp.log(self.scale).sum()


def standardize(x: Array | np.ndarray, *, names: Sequence[str] = ()) -> Standardization:
    """Compute the mean and the standard deviation of every column, in float64.

    Pass only the training part of the data.

    Args:
        x: ``(n, d)`` floats, on the host or on a device.
        names: The names of the columns, for error messages.

    Returns:
        The map, in the dtype of x.

    Raises:
        DataError: If x has no rows, a value is not finite, or a column is constant and therefore
            has no density. The message names the column.
        TypeError: If x is not a float array.
        ValueError: If x is not 2-D.

    >>> standard = standardize(np.asarray([[1.0, 0.0], [3.0, 4.0]]))
    >>> standard(np.asarray([3.0, 0.0])).tolist(), standard.log_det.round(4).item()  # -log 1 * 2
    ([1.0, -1.0], -0.6931)
    """
    array("x", x)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; expected (n, d), one row per example")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x has dtype {x.dtype}; expected floats")
    check(x)
    wide = np.asarray(x, float)
    mean = wide.mean(axis=0)
    # a second pass removes the rounding error of a mean that is large next to the deviations
    mean = mean + (wide - mean).mean(axis=0)
    largest, spread = np.abs(wide).max(axis=0), np.ptp(wide, axis=0)
    constant = np.flatnonzero(spread <= 4 * float(jnp.finfo(x.dtype).eps) * largest)
    if constant.size:
        first = int(constant[0])
        name = repr(names[first]) if names else str(first)
        raise DataError(
            f"column {name} is constant, {wide[0, first]:g} in all {len(wide)} rows, so it has no "
            "density; leave it out"
        )
    scale = np.sqrt(((wide - mean) ** 2).mean(axis=0))
    return Standardization(mean.astype(x.dtype), scale.astype(x.dtype))
