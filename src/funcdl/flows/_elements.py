"""The scalar maps of coupling and autoregressive flows, with parameters from a network."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl import density
from funcdl._check import integer
from funcdl._typing import Array, Scalar
from funcdl.flows._rational_quadratic import rational_quadratic, rational_quadratic_inverse

_SMALLEST = 1e-3  # the smallest relative width, height and slope of a piece: none is degenerate
_LOG_SCALE = 3.0  # bounds the scale where a conditioner is evaluated far from the data


class Element(NamedTuple):
    """A monotone function ``apply(raw, x)`` of one number, with ``size`` parameters in ``raw``.

    It applies to many numbers at once, with ``raw`` as ``(size, ...)`` and ``x`` as ``(...)``. It
    is the identity where ``raw`` is 0.
    """

    size: int
    apply: Callable[[Any, Array], Array]


def affine_element() -> Element:
    """Return the element :math:`x e^s + t`, with :math:`|s| < 3`."""
    return Element(2, _affine)


def spline_element(bins: int, bound: float) -> Element:
    """Return a rational-quadratic spline within ``bound``, continued by the identity.

    Raises:
        ValueError: If there are fewer than 2 bins, or the bound is not a positive number.
        TypeError: If ``bins`` is not an integer.
    """
    if not 2 <= integer("bins", bins) < 1 / _SMALLEST:
        raise ValueError(f"bins is {bins}; expected 2 to {int(1 / _SMALLEST) - 1}")
    if not 0 < bound < math.inf:
        raise ValueError(f"bound is {bound}; expected a finite number > 0")

    def apply(raw, x):
        pieces = jax.vmap(lambda raw: _pieces(raw, bins, bound), in_axes=1)
        flat = _SPLINES(x.ravel(), *pieces(raw.reshape(len(raw), -1)))
        return flat.reshape(x.shape)

    return Element(3 * bins - 1, apply)


def _affine(raw: Array | list[Array], x: Array) -> Array:
    log_scale = _LOG_SCALE * jnp.tanh(raw[0] / _LOG_SCALE)
    return x * jnp.exp(log_scale) + raw[1]


def _splines_log_det(x: Array, *pieces: Array) -> Scalar:
    return density.log_abs_det_jacobian(jax.vmap(rational_quadratic))(x, *pieces)


# one spline for each number; samples take the closed inverse, not Newton steps
_SPLINES = density.rule(
    jax.vmap(rational_quadratic),
    log_det=_splines_log_det,
    inverse=jax.vmap(rational_quadratic_inverse),
)


def _pieces(raw: Array, bins: int, bound: float) -> tuple[Array, Array, Array]:
    widths, heights = (2 * bound * _shares(part) for part in (raw[:bins], raw[bins : 2 * bins]))
    one = math.log(math.expm1(1 - _SMALLEST))  # the argument at which the slope is 1
    inner = _SMALLEST + jax.nn.softplus(raw[2 * bins :] + one)
    end = jnp.ones(1, inner.dtype)
    return widths, heights, jnp.concatenate([end, inner, end])


def _shares(raw: Array) -> Array:
    return _SMALLEST + (1 - _SMALLEST * len(raw)) * jax.nn.softmax(raw)
