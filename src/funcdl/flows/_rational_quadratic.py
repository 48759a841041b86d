"""Monotone rational-quadratic splines of one number, and their inverse in closed form."""

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from funcdl import _check
from funcdl._typing import Array, Float, Scalar


def rational_quadratic(
    x: Scalar, widths: Float[Array, " k"], heights: Float[Array, " k"], slopes: Float[Array, " m"]
) -> Scalar:
    r"""Evaluate a monotone spline of k rational-quadratic pieces, linear outside of them.

    .. math::
        y = y_i + h_i\, \frac{s\,\theta^2 + d_i\,\theta (1 - \theta)}
            {s + (d_i + d_{i+1} - 2 s)\,\theta (1 - \theta)}, \qquad
        \theta = \frac{x - x_i}{w_i}, \quad s = \frac{h_i}{w_i}

    in piece i. The pieces lie about 0: they map :math:`|x| \le \sum_i w_i / 2` onto
    :math:`|y| \le \sum_i h_i / 2`. The slope is continuous, the tails have those of the ends.
    Derivatives are in closed form, sums of positive terms: the slope is right to rounding.

    Args:
        x: One number.
        widths: :math:`w_i > 0`.
        heights: :math:`h_i > 0`.
        slopes: :math:`d_i > 0`, the k + 1 slopes at the knots.

    Returns:
        y.

    Raises:
        ValueError: If x is no scalar, or the shapes do not fit.
        TypeError: If they are not of floats.

    Source: Gregory and Delbourgo, "Piecewise rational quadratic interpolation to monotonic data",
    IMA J. Numerical Analysis 2 (1982); Durkan et al., "Neural spline flows" (2019).

    >>> two, slopes = jnp.ones(2), jnp.asarray([0.5, 1.0, 0.5])
    >>> rational_quadratic(jnp.asarray(1.5), two, two, slopes).item()  # the tail, 1 + 0.5 * 0.5
    1.25
    """
    x, widths, heights, slopes = _checked("x", x, widths, heights, slopes)
    knots, images = _knots(widths), _knots(heights)
    inside = jnp.where((x < knots[0]) | (x > knots[-1]), 0, x)
    x0, y0, w, h, left, right = _piece(inside, knots, knots, images, widths, heights, slopes)
    y = y0 + h * _ratio((inside - x0) / w, h / w, left, right)
    return _with_tails(x, y, knots, images, slopes)


def rational_quadratic_inverse(
    y: Scalar, widths: Float[Array, " k"], heights: Float[Array, " k"], slopes: Float[Array, " m"]
) -> Scalar:
    r"""Find the x with ``rational_quadratic(x, ...) = y``, the root of a quadratic equation.

    .. math::
        \theta = \frac{2 s \eta}{b + \sqrt{b^2 + 4 a s \eta}}, \qquad
        a = s (1 - 2 \eta) - c, \quad b = c + 2 s \eta, \quad
        c = d_i (1 - \eta) - d_{i+1} \eta, \quad \eta = \frac{y - y_i}{h_i}

    Args:
        y: One number.
        widths: As of ``rational_quadratic``.
        heights: As of ``rational_quadratic``.
        slopes: As of ``rational_quadratic``.

    Returns:
        x, as exact as y tells it. Its derivatives are those of the equation.

    Raises:
        ValueError: If y is no scalar, or the shapes do not fit.
        TypeError: If they are not of floats.

    Source: Durkan et al., "Neural spline flows" (2019), appendix A.

    >>> two, slopes = jnp.ones(2), jnp.asarray([0.5, 1.0, 0.5])
    >>> rational_quadratic_inverse(jnp.asarray(1.25), two, two, slopes).item()
    1.5
    """
    y, widths, heights, slopes = _checked("y", y, widths, heights, slopes)
    knots, images = _knots(widths), _knots(heights)
    inside = jnp.where((y < images[0]) | (y > images[-1]), 0, y)
    x0, y0, w, h, left, right = _piece(inside, images, knots, images, widths, heights, slopes)
    x = x0 + w * _ratio_inverse((inside - y0) / h, h / w, left, right)
    return _with_tails(y, x, images, knots, 1 / slopes)


def _knots(lengths: Array) -> Array:
    ends = jnp.cumsum(lengths)
    return jnp.concatenate([jnp.zeros(1, ends.dtype), ends]) - ends[-1] / 2


def _piece(x, ends, knots, images, widths, heights, slopes):
    """Pick the numbers of the piece in which x is."""
    at = (x >= ends[1:-1]).sum()
    table = knots[:-1], images[:-1], widths, heights, slopes[:-1], slopes[1:]
    return [column[at] for column in table]


def _with_tails(x, inside, knots, images, slopes):
    """Continue a function beyond its outer knots by lines of the outer slopes."""
    below = images[0] + slopes[0] * (x - knots[0])
    above = images[-1] + slopes[-1] * (x - knots[-1])
    return jnp.where(x < knots[0], below, jnp.where(x > knots[-1], above, inside))


@jax.custom_jvp
def _ratio(t, s, left, right):
    """Map 0..1 to itself, with mean slope s of the piece and slopes at its ends."""
    o = 1 - t
    return t * (s * t + left * o) / _bottom(t, s, left, right)


def _ratio_jvp(primals, tangents):
    # AD would subtract what nearly cancels; these are sums of positive terms, but for s
    return _ratio(*primals), _along(_derivatives(*primals), tangents, primals[0])


_ratio.defjvp(_ratio_jvp, symbolic_zeros=True)


def _along(slopes, tangents, like):
    """Sum slope times tangent; zeros that jax knows of cost nothing, nor do their derivatives."""
    moving = [(a, b) for a, b in zip(slopes, tangents) if not isinstance(b, SymbolicZero)]
    return sum((a * b for a, b in moving), jnp.zeros_like(like))


def _bottom(t, s, left, right):
    o = 1 - t
    return s * (t * t + o * o) + (left + right) * t * o


def _derivatives(t, s, left, right):
    o = 1 - t
    bottom = _bottom(t, s, left, right)
    in_t = s * (right * t * t + 2 * s * t * o + left * o * o) / bottom**2
    in_s = t * o * (right * t * t - left * o * o) / bottom**2
    in_left = t * o * o * (s * o + right * t) / bottom**2
    in_right = -t * t * o * (s * t + left * o) / bottom**2
    return in_t, in_s, in_left, in_right


@jax.custom_jvp
def _ratio_inverse(r, s, left, right):
    c = left * (1 - r) - right * r
    a, b = s * (1 - 2 * r) - c, c + 2 * s * r
    root = jnp.sqrt(jnp.maximum(b * b + 4 * a * s * r, 0))
    # of the two forms of the root, the one that adds; where b < 0, a > 0
    positive = b >= 0
    adds = 2 * s * r / jnp.where(positive, b + root, 1)
    return jnp.clip(jnp.where(positive, adds, (root - b) / jnp.where(positive, 1, 2 * a)), 0, 1)


def _ratio_inverse_jvp(primals, tangents):
    t = _ratio_inverse(*primals)
    in_t, *others = _derivatives(t, *primals[1:])
    slopes = [1 / in_t, *(-slope / in_t for slope in others)]
    return t, _along(slopes, tangents, t)


_ratio_inverse.defjvp(_ratio_inverse_jvp, symbolic_zeros=True)


def _checked(name, x, widths, heights, slopes):
    x = _check.real_array(name, x, 0)
    widths = _check.real_array("widths", widths, 1)
    heights = _check.real_array("heights", heights, 1)
    slopes = _check.real_array("slopes", slopes, 1)
    k = len(widths)
    if not k or len(heights) != k or len(slopes) != k + 1:
        raise ValueError(
            f"widths, heights and slopes have shapes {widths.shape}, {heights.shape} and "
            f"{slopes.shape}; expected (k,), (k,) and (k + 1,) for k pieces"
        )
    return x, widths, heights, slopes
