"""Pooling with a fixed rule for ties: the gradient goes to the first maximal entry of a window."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from funcdl._check import array
from funcdl._typing import Array

Pair = int | Sequence[int]
Padding = str | Sequence[tuple[int, int]]
Two = tuple[int, int]  # (vertical, horizontal), checked
Pads = tuple[Two, Two]  # ((top, bottom), (left, right)), checked


def max_pool(
    x: Array, window: Pair, *, strides: Pair | None = None, padding: Padding = "VALID"
) -> Array:
    r"""Take the largest entry of each window, :math:`y_{ij} = \max_{pq} x_{si+p,\,sj+q}`.

    Where several entries are largest, the derivative is that of the first one in row-major order,
    as in PyTorch. This holds for both modes of differentiation, for every order and on every
    backend. Padding is never chosen. If a window contains NaN, its maximum is NaN.

    Args:
        x: Images (b, h, w, c).
        window: One number or (height, width).
        strides: The steps between windows; the size of the window if ``None``, as in PyTorch
            (``flax.linen.max_pool`` would use 1).
        padding: ``"SAME"``, ``"VALID"`` or ((top, bottom), (left, right)).

    Returns:
        The maxima (b, oh, ow, c).

    Raises:
        ValueError: If x does not have four axes, the padding is unknown, or no window fits.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel()
    Array([ 5.,  7., 13., 15.], dtype=float32)
    >>> jax.grad(lambda x: max_pool(x, 2).sum())(jnp.zeros((1, 2, 2, 1))).ravel()
    Array([1., 0., 0., 0.], dtype=float32)
    """
    return _max_pool(x, *_geometry(x, window, strides, padding))


def avg_pool(
    x: Array, window: Pair, *, strides: Pair | None = None, padding: Padding = "VALID"
) -> Array:
    r"""Average each window, :math:`y_{ij} = \frac{1}{|W|} \sum_{pq} x_{si+p,\,sj+q}`.

    Padding counts as zeros, as in PyTorch and ``flax.linen.avg_pool``.

    Args:
        x: Images (b, h, w, c).
        window: One number or (height, width).
        strides: The steps between windows; the size of the window if ``None``.
        padding: ``"SAME"``, ``"VALID"`` or ((top, bottom), (left, right)).

    Returns:
        The means (b, oh, ow, c).

    Raises:
        ValueError: If x does not have four axes, the padding is unknown, or no window fits.

    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel()
    Array([ 2.5,  4.5, 10.5, 12.5], dtype=float32)
    """
    return _windows(x, 0, *_geometry(x, window, strides, padding)).mean((2, 4))


def pair(value: Pair, name: str) -> Two:
    """Return one number as two equal ones; errors call the argument ``name``."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or min(values) < 1:
        raise ValueError(
            f"{name} is {value}; expected one positive number, or two as (vertical, horizontal)"
        )
    return values


def pad_widths(x: Array, window: Two, strides: Two, padding: Padding) -> Pads:
    """Return the padding as ((top, bottom), (left, right)), and check that a window fits."""
    if isinstance(padding, str):
        if padding not in {"SAME", "VALID"}:
            raise ValueError(
                f'padding "{padding}" is unknown; expected "SAME", "VALID" or '
                "((top, bottom), (left, right))"
            )
        padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    if len(padding) != 2:
        raise ValueError(f"padding is {padding}; expected ((top, bottom), (left, right))")
    (top, bottom), (left, right) = padding
    pads = (top, bottom), (left, right)
    if any(n + sum(p) < k for n, p, k in zip(x.shape[1:3], pads, window)):
        raise ValueError(
            f"a window {window} does not fit in images {x.shape} padded by {pads}; use a smaller "
            "window or more padding"
        )
    return pads


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: Two, strides: Two, pads: Pads) -> Array:
    return _windows(x, _lowest(x.dtype), window, strides, pads).max((2, 4))


# The JVP selects one entry of each window by comparison with the maximum, so the rule for ties is
# the same in both modes and for every order; JAX's own derivative of ``max`` would split ties
# evenly. Entries of the padding are masked, since they equal the maximum in a window of -inf.
@_max_pool.defjvp
def _max_pool_jvp(
    window: Two, strides: Two, pads: Pads, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    y = _max_pool(x, window, strides, pads)
    entries = _windows(x, _lowest(x.dtype), window, strides, pads)
    is_largest = (entries == y[:, :, None, :, None]) | jnp.isnan(entries)
    if any(map(any, pads)):
        is_inside = jnp.ones((1, *x.shape[1:3], 1), bool)
        is_inside = _windows(is_inside, 0, window, strides, pads)
        is_largest &= jnp.broadcast_to(is_inside, is_largest.shape)
    # (1, 1, kh, 1, kw, 1): the index of an entry in its window
    index = jnp.arange(window[0] * window[1]).reshape(1, 1, window[0], 1, window[1], 1)
    index = jnp.broadcast_to(index, entries.shape)
    first = jnp.where(is_largest, index, index.size).min((2, 4), keepdims=True)
    return y, jnp.where(index == first, _windows(dx, 0, window, strides, pads), 0).sum((2, 4))


def _windows(x: Array, fill: float | int, window: Two, strides: Two, pads: Pads) -> Array:
    """Return the windows of images (b, h, w, c) as (b, oh, kh, ow, kw, c)."""
    b, _, _, c = x.shape
    counts = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(x.shape[1:3], pads, window, strides)]
    # rows and columns that no window reads are cut off by a negative padding
    reach = [(count - 1) * s + k for count, s, k in zip(counts, strides, window)]
    widths = [(low, r - n - low, 0) for n, (low, _), r in zip(x.shape[1:3], pads, reach)]
    x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *widths, (0, 0, 0)))
    if strides == window:
        return x.reshape(b, counts[0], window[0], counts[1], window[1], c)
    lasts = [r - k + 1 for r, k in zip(reach, window)]
    rows = [x[:, p : p + lasts[0] : strides[0]] for p in range(window[0])]
    x = jnp.stack(rows, axis=2)
    columns = [x[:, :, :, q : q + lasts[1] : strides[1]] for q in range(window[1])]
    return jnp.stack(columns, axis=4)


def _geometry(
    x: Array, window: Pair, strides: Pair | None, padding: Padding
) -> tuple[Two, Two, Pads]:
    array("x", x)
    if x.ndim != 4:
        raise ValueError(f"the images have shape {x.shape}; expected four axes, (b, h, w, c)")
    sizes = pair(window, "window")
    steps = sizes if strides is None else pair(strides, "strides")
    return sizes, steps, pad_widths(x, sizes, steps, padding)


def _lowest(dtype: jax.typing.DTypeLike) -> float | int:
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min
