"""Pooling with one rule at ties: the gradient goes to the first maximal entry of a window."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from funcdl._typing import Array

Pair = int | Sequence[int]
Padding = str | Sequence[tuple[int, int]]


def max_pool(
    x: Array, window: Pair, *, strides: Pair | None = None, padding: Padding = "VALID"
) -> Array:
    r"""Take the largest entry of each window, :math:`y_{ij} = \max_{pq} x_{si+p,\,sj+q}`.

    Where several entries are largest, the derivative is that of the first in row-major order,
    as in torch, in every mode and order and on every backend; padding is never chosen. NaN wins.

    Args:
        x: Images (b, h, w, c).
        window: One number or (height, width).
        strides: Steps between windows; the window itself where it is None, as in torch
            (``flax.linen.max_pool`` then takes 1).
        padding: ``"SAME"``, ``"VALID"`` or ((top, bottom), (left, right)).

    Returns:
        The maxima (b, oh, ow, c).

    Raises:
        ValueError: The rank is not four, the padding is unknown, or no window fits.

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

    Padding counts as zeros, as in torch and ``flax.linen.avg_pool``.

    Args:
        x: Images (b, h, w, c).
        window: One number or (height, width).
        strides: Steps between windows; the window itself where it is None.
        padding: ``"SAME"``, ``"VALID"`` or ((top, bottom), (left, right)).

    Returns:
        The means (b, oh, ow, c).

    Raises:
        ValueError: The rank is not four, the padding is unknown, or no window fits.

    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel()
    Array([ 2.5,  4.5, 10.5, 12.5], dtype=float32)
    """
    return _windows(x, 0, *_geometry(x, window, strides, padding)).mean((2, 4))


def pair(value: Pair, name: str) -> tuple[int, int]:
    """Return one number as two equal ones; ``name`` says in an error what the number is."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or min(values) < 1:
        raise ValueError(f"{name} is one positive number or two, (vertical, horizontal): {value}")
    return values


def pad_widths(
    x: Array, window: tuple[int, int], strides: tuple[int, int], padding: Padding
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return padding as ((top, bottom), (left, right)), checked: a window fits."""
    if isinstance(padding, str):
        if padding not in {"SAME", "VALID"}:
            raise ValueError(f'padding "{padding}" is unknown; use "SAME", "VALID" or two pairs')
        padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    pads = tuple((low, high) for low, high in padding)
    if len(pads) != 2:
        raise ValueError(f"padding is ((top, bottom), (left, right)): {padding}")
    if any(n + sum(p) < k for n, p, k in zip(x.shape[1:3], pads, window)):
        raise ValueError(f"a window {window} does not fit in images {x.shape} padded by {pads}")
    return pads


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, strides, pads):
    return _windows(x, _lowest(x.dtype), window, strides, pads).max((2, 4))


@_max_pool.defjvp
def _max_pool_jvp(window, strides, pads, primals, tangents):
    (x,), (dx,) = primals, tangents
    y = _max_pool(x, window, strides, pads)
    entries = _windows(x, _lowest(x.dtype), window, strides, pads)
    largest = (entries == y[:, :, None, :, None]) | jnp.isnan(entries)
    if any(map(any, pads)):
        inside = jnp.ones((1, *x.shape[1:3], 1), bool)
        largest &= jnp.broadcast_to(_windows(inside, 0, window, strides, pads), largest.shape)
    # (1, 1, kh, 1, kw, 1): an entry's place in its window
    place = jnp.arange(window[0] * window[1]).reshape(1, 1, window[0], 1, window[1], 1)
    place = jnp.broadcast_to(place, entries.shape)
    first = jnp.where(largest, place, place.size).min((2, 4), keepdims=True)
    return y, jnp.where(place == first, _windows(dx, 0, window, strides, pads), 0).sum((2, 4))


def _windows(x: Array, fill: float | int, window: Pair, strides: Pair, pads: Padding) -> Array:
    """Return the windows of images (b, h, w, c) as (b, oh, kh, ow, kw, c)."""
    b, _, _, c = x.shape
    counts = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(x.shape[1:3], pads, window, strides)]
    # what no window reads is cut off
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


def _geometry(x, window, strides, padding):
    if x.ndim != 4:
        raise ValueError(f"images (b, h, w, c) have four axes, these have shape {x.shape}")
    window = pair(window, "window")
    strides = window if strides is None else pair(strides, "strides")
    return window, strides, pad_widths(x, window, strides, padding)


def _lowest(dtype) -> float | int:
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min
