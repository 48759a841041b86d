"""What couplings and autoregressive flows do to one number, given the parameters for it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._check import integer
from funcdl._typing import Array
from funcdl.flows._rational_quadratic import rational_quadratic

_SMALLEST = 1e-3  # width, height and slope of a piece, so that nothing is degenerate
_LOG_SCALE = 3.0  # so that no scale overflows, however wrong a conditioner is far from the data


class Element(NamedTuple):
    """A monotone function of one number: ``apply(raw, x)``, with ``size`` numbers in ``raw``.

    It takes many at once, ``raw`` as ``(size, ...)`` and ``x`` as ``(...)``; the identity where
    ``raw`` is 0.
    """

    size: int
    apply: Callable


def affine_element() -> Element:
    """Return a scale and a shift, :math:`x e^s + t`, with the log-scale s within 3 of 0."""
    return Element(2, _affine)


def spline_element(bins: int, bound: float) -> Element:
    """Return a rational-quadratic spline within ``bound``, the identity beyond.

    Raises:
        ValueError: If there are fewer than 2 bins, or the bound is no positive number.
        TypeError: If ``bins`` is no integer.
    """
    if not 2 <= integer("bins", bins) < 1 / _SMALLEST:
        raise ValueError(f"bins is {bins}; expected 2 to {int(1 / _SMALLEST) - 1}")
    if not 0 < bound < math.inf:
        raise ValueError(f"bound is {bound}; expected a finite number > 0")

    def apply(raw, x):
        each = jax.vmap(lambda raw, x: _spline(raw, x, bins, bound), in_axes=(1, 0))
        flat = each(raw.reshape(len(raw), -1), x.ravel())
        return flat.reshape(x.shape)

    return Element(3 * bins - 1, apply)


def _affine(raw, x: Array) -> Array:
    log_scale = _LOG_SCALE * jnp.tanh(raw[0] / _LOG_SCALE)
    return x * jnp.exp(log_scale) + raw[1]


def _spline(raw: Array, x: Array, bins: int, bound: float) -> Array:
    widths, heights = (2 * bound * _shares(part) for part in (raw[:bins], raw[bins : 2 * bins]))
    one = math.log(math.expm1(1 - _SMALLEST))  # where softplus makes a slope of 1
    inner = _SMALLEST + jax.nn.softplus(raw[2 * bins :] + one)
    end = jnp.ones(1, inner.dtype)
    return rational_quadratic(x, widths, heights, jnp.concatenate([end, inner, end]))


def _shares(raw: Array) -> Array:
    return _SMALLEST + (1 - _SMALLEST * len(raw)) * jax.nn.softmax(raw)
