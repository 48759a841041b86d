"""What is done to a table before it is trained on: split, standardize."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree, Scalar
from funcdl.data._checks import DataError, check
from funcdl.data._datasets import Split


def split(arrays: PyTree, fraction: float, *, key: Key[Array, ""]) -> Split:
    """Part a data set at random.

    Args:
        arrays: Pytree of arrays with a leading axis of examples.
        fraction: Of the examples for the second part, ``test``; rounded to whole examples.
        key: Draws which.

    Returns:
        ``Split(train, test)``, each like ``arrays``; every example is in one of the two.

    Raises:
        DataError: If the data is empty, ragged or not finite.
        TypeError: If a leaf is no array of numbers, or the key not typed.
        ValueError: If a part would be empty.

    >>> train, test = split(np.arange(10.0), 0.3, key=jax.random.key(0))
    >>> len(train), len(test), sorted({*train.tolist(), *test.tolist()}) == list(range(10))
    (7, 3, True)
    """
    check_key(key)
    count = check(arrays)
    tested = round(count * fraction)
    if not 0 < tested < count:
        raise ValueError(
            f"fraction is {fraction}, which is {tested} of {count} examples; both parts need one"
        )
    order = np.asarray(jax.random.permutation(key, count))
    part = lambda index: jax.tree.map(lambda leaf: leaf[index], arrays)
    return Split(part(order[tested:]), part(order[:tested]))


class Standardization(NamedTuple):
    r"""An affine map to mean 0 and variance 1, :math:`z = (x - \mu) / \sigma`.

    A function of one point; on the host it takes a whole table of numpy, ``(n, d)``. Add
    ``log_det`` to the log-density of z, and it is that of x in its own units.

    Attributes:
        mean: ``(d,)``.
        scale: ``(d,)``, standard deviations.
    """

    mean: Array | np.ndarray
    scale: Array | np.ndarray

    def __call__(self, x):
        return (x - self.mean) / self.scale

    def inverse(self, z):
        """Return to the units of x."""
        return z * self.scale + self.mean

    @property
    def log_det(self) -> Scalar:
        r"""The log-determinant of the map, :math:`-\sum_i \log \sigma_i`."""
        return -jnp.log(self.scale).sum()


def standardize(x: Array | np.ndarray, *, names: Sequence[str] = ()) -> Standardization:
    """Measure mean and standard deviation of every column; give it the training part alone.

    Args:
        x: ``(n, d)`` floats, on the host or on a device; they are measured in float64.
        names: Of the columns, for the messages.

    Returns:
        The map, in the dtype of x.

    Raises:
        DataError: If there is no row, a value is not finite, or a column is constant, which has no
            density: it is named.
        TypeError: If x is not of floats.
        ValueError: If x has another number of axes than 2.

    >>> standard = standardize(np.asarray([[1.0, 0.0], [3.0, 4.0]]))
    >>> standard(np.asarray([3.0, 0.0])).tolist(), standard.log_det.round(4).item()  # -log 1 * 2
    ([1.0, -1.0], -0.6931)
    """
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; expected (n, d), a row an example")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x has dtype {x.dtype}; expected floats")
    check(x)
    wide = np.asarray(x, float)
    mean = wide.mean(axis=0)
    mean = mean + (wide - mean).mean(axis=0)  # what rounding left, where the mean is large
    largest, smallest = np.abs(wide).max(axis=0), np.ptp(wide, axis=0)
    constant = np.flatnonzero(smallest <= 4 * float(jnp.finfo(x.dtype).eps) * largest)
    if constant.size:
        at = int(constant[0])
        name = repr(names[at]) if names else str(at)
        raise DataError(
            f"column {name} is constant, {wide[0, at]:g} in all {len(wide)} rows; it has no "
            "density: leave it out"
        )
    scale = np.sqrt(((wide - mean) ** 2).mean(axis=0))
    return Standardization(mean.astype(x.dtype), scale.astype(x.dtype))
