"""Monotone rational-quadratic splines of one number, and their inverse in closed form."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from funcdl import _check
from funcdl._typing import Array, ArrayLike, Float, Scalar


def rational_quadratic(
    x: Scalar, widths: Float[Array, " k"], heights: Float[Array, " k"], slopes: Float[Array, " m"]
) -> Scalar:
    r"""Evaluate a monotone spline of k rational-quadratic pieces, linear outside of them.

    .. math::
        y = y_i + h_i\, \frac{s\,\theta^2 + d_i\,\theta (1 - \theta)}
            {s + (d_i + d_{i+1} - 2 s)\,\theta (1 - \theta)}, \qquad
        \theta = \frac{x - x_i}{w_i}, \quad s = \frac{h_i}{w_i}

    in piece i. The pieces are centered at 0: they map :math:`|x| \le \sum_i w_i / 2` onto
    :math:`|y| \le \sum_i h_i / 2`. The slope is continuous, and the linear tails have the slopes of
    the outer knots. The derivatives are closed-form sums of positive terms, so the slope is
    accurate to rounding.

    Args:
        x: One number.
        widths: The widths of the pieces, :math:`w_i > 0`.
        heights: The heights of the pieces, :math:`h_i > 0`.
        slopes: The k + 1 slopes at the knots, :math:`d_i > 0`.

    Returns:
        The value y.

    Raises:
        ValueError: If x is not a scalar, or the shapes do not fit.
        TypeError: If an argument is not of floats.

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
    r"""Solve ``rational_quadratic(x, ...) = y`` for x, the root of a quadratic equation.

    .. math::
        \theta = \frac{2 s \eta}{b + \sqrt{b^2 + 4 a s \eta}}, \qquad
        a = s (1 - 2 \eta) - c, \quad b = c + 2 s \eta, \quad
        c = d_i (1 - \eta) - d_{i+1} \eta, \quad \eta = \frac{y - y_i}{h_i}

    Args:
        y: One number.
        widths: As in ``rational_quadratic``.
        heights: As in ``rational_quadratic``.
        slopes: As in ``rational_quadratic``.

    Returns:
        The value x, as accurate as the rounding of y allows. Its derivatives are those of the
        implicit function.

    Raises:
        ValueError: If y is not a scalar, or the shapes do not fit.
        TypeError: If an argument is not of floats.

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


# Within a piece, both functions are scalar maps of 0..1 to itself: ``_ratio`` of theta and
# ``_ratio_inverse`` of eta, with the mean slope s and the two end slopes as parameters. They have
# custom derivatives, since automatic differentiation of the quotient and of the root would subtract
# nearly equal numbers; the derivatives of the inverse are those of the implicit function. Points
# outside of the pieces are replaced by 0 before the piece is evaluated, and by the linear tails
# after it, so that neither branch of ``where`` has a NaN gradient.


def _knots(lengths: Array) -> Array:
    ends = jnp.cumsum(lengths)
    return jnp.concatenate([jnp.zeros(1, ends.dtype), ends]) - ends[-1] / 2


def _piece(
    x: Array,
    ends: Array,
    knots: Array,
    images: Array,
    widths: Array,
    heights: Array,
    slopes: Array,
) -> list[Array]:
    """Select the parameters of the piece that contains x."""
    i = (x >= ends[1:-1]).sum()
    table = knots[:-1], images[:-1], widths, heights, slopes[:-1], slopes[1:]
    return [column[i] for column in table]


def _with_tails(x: Array, inside: Array, knots: Array, images: Array, slopes: Array) -> Array:
    """Continue a function beyond its outer knots by lines with the outer slopes."""
    below = images[0] + slopes[0] * (x - knots[0])
    above = images[-1] + slopes[-1] * (x - knots[-1])
    return jnp.where(x < knots[0], below, jnp.where(x > knots[-1], above, inside))


@jax.custom_jvp
def _ratio(t: Array, s: Array, left: Array, right: Array) -> Array:
    """Map 0..1 to itself, where s is the mean slope of the piece and left, right those at ends."""
    o = 1 - t
    return t * (s * t + left * o) / _bottom(t, s, left, right)


def _ratio_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # AD would subtract nearly equal terms; these derivatives, except in s, only add positive ones
    return _ratio(*primals), _along(_derivatives(*primals), tangents, primals[0])


_ratio.defjvp(_ratio_jvp, symbolic_zeros=True)


def _along(slopes: Sequence[Array], tangents: tuple, like: Array) -> Array:
    """Sum slope times tangent. Symbolic zeros are left out, so they cost nothing at any order."""
    terms = [(a, b) for a, b in zip(slopes, tangents) if not isinstance(b, SymbolicZero)]
    return sum((a * b for a, b in terms), jnp.zeros_like(like))


def _bottom(t: Array, s: Array, left: Array, right: Array) -> Array:
    o = 1 - t
    return s * (t * t + o * o) + (left + right) * t * o


def _derivatives(t: Array, s: Array, left: Array, right: Array) -> tuple[Array, ...]:
    o = 1 - t
    bottom = _bottom(t, s, left, right)
    in_t = s * (right * t * t + 2 * s * t * o + left * o * o) / bottom**2
    in_s = t * o * (right * t * t - left * o * o) / bottom**2
    in_left = t * o * o * (s * o + right * t) / bottom**2
    in_right = -t * t * o * (s * t + left * o) / bottom**2
    return in_t, in_s, in_left, in_right


@jax.custom_jvp
def _ratio_inverse(r: Array, s: Array, left: Array, right: Array) -> Array:
    c = left * (1 - r) - right * r
    a, b = s * (1 - 2 * r) - c, c + 2 * s * r
    root = jnp.sqrt(jnp.maximum(b * b + 4 * a * s * r, 0))
    # of the two equivalent forms of the root, use the one without cancellation; if b < 0, a > 0
    is_positive = b >= 0
    first = 2 * s * r / jnp.where(is_positive, b + root, 1)
    second = (root - b) / jnp.where(is_positive, 1, 2 * a)
    return jnp.clip(jnp.where(is_positive, first, second), 0, 1)


def _ratio_inverse_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    t = _ratio_inverse(*primals)
    in_t, *others = _derivatives(t, *primals[1:])
    slopes = [1 / in_t, *(-slope / in_t for slope in others)]
    return t, _along(slopes, tangents, t)


_ratio_inverse.defjvp(_ratio_inverse_jvp, symbolic_zeros=True)


def _checked(
    name: str, x: ArrayLike, widths: ArrayLike, heights: ArrayLike, slopes: ArrayLike
) -> tuple[Array, Array, Array, Array]:
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
