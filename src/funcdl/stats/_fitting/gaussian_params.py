"""The parameters of a Gaussian, and their checks."""

from typing import NamedTuple

from funcdl._check import real_array, record
from funcdl._typing import Array


class Gaussian(NamedTuple):
    r"""The parameters of :math:`N(\mu, \Sigma)`.

    Attributes:
        mean: The mean, ``(d,)``.
        covariance: ``(d, d)``, symmetric positive definite; otherwise densities are NaN.
    """

    mean: Array
    covariance: Array


def checked(params: Gaussian, names: tuple = Gaussian._fields) -> Gaussian:
    """Return parameters as arrays, after a check that their shapes match.

    Raises:
        ValueError: If they do not; the message names the parameter and its shape.
        TypeError: If they are not of a float dtype.
    """
    record("params", params, Gaussian, "its parameters")
    mean = real_array(f"params.{names[0]}", params.mean, 1)
    covariance = real_array(f"params.{names[1]}", params.covariance, 2)
    d = len(mean)
    if covariance.shape != (d, d):
        raise ValueError(
            f"params.{names[1]} has shape {covariance.shape}; expected {(d, d)}, since params.mean "
            f"has shape {mean.shape}"
        )
    return Gaussian(mean, covariance)


def point(x: Array, mean: Array) -> Array:
    """Return a point as an array, after a check that it has the shape of ``mean``.

    Raises:
        ValueError: If it does not; the message names both shapes.
        TypeError: If it is not of a float dtype.
    """
    x = real_array("x", x, 1)
    if x.shape != mean.shape:
        raise ValueError(f"x has shape {x.shape}; expected {mean.shape}, that of params.mean")
    return x
