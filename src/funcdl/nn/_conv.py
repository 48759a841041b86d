"""Two-dimensional convolution with the lowering that is fastest on each backend."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from funcdl._check import array
from funcdl._typing import Array
from funcdl.nn._pool import Padding, Pads, Pair, Two, pad_widths, pair

# Patches beyond this size leave the cache, and every pass over them then waits for memory.
_BLOCK_BYTES = 2**20

# On a CPU the convolution is one matrix product, patches @ banded kernel. Along each axis, windows
# are grouped into tiles of one or two neighboring windows; a patch is the union of the entries that
# a tile sees, and the kernel is placed once for each window of the tile, shifted by the stride. The
# images are processed in chunks whose patches fit the cache. The invariant that makes the patches
# cheap: each tile starts one block (``tile * stride`` entries) after the tile before it, so patches
# are concatenations of shifted slices of one reshaped array and need no gather.


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    r"""Correlate images with a kernel, :math:`y_{ijo} = \sum_{pqc} x_{si+p,\,sj+q,\,c}\, k_{pqco}`.

    On a CPU this is a matrix product of patches with the kernel, blocked to the cache, because
    XLA's own convolution is many times slower inside ``scan``, where training steps run. On other
    backends, and with dilation or groups, it is ``lax.conv_general_dilated``. Both are linear in
    ``x`` and in ``kernel``, so derivatives of any order and ``vmap`` over either argument are fast.

    Args:
        x: Images (b, h, w, c).
        kernel: Weights (kh, kw, c / groups, o).
        strides: The steps between windows, one number or (vertical, horizontal).
        padding: ``"SAME"``, ``"VALID"`` or ((top, bottom), (left, right)).
        dilation: The steps between the entries of a window, one number or (vertical, horizontal).
        groups: The number of groups of channels that are convolved separately.

    Returns:
        The responses (b, oh, ow, o).

    Raises:
        ValueError: If an argument does not have four axes, the channels differ, the padding is
            unknown, or the kernel is larger than the padded image.

    >>> conv(jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.ones((2, 2, 1, 1)), padding="VALID").ravel()
    Array([ 8., 12., 20., 24.], dtype=float32)
    """
    _check_channels(x, kernel, groups)
    steps, (dy, dx) = pair(strides, "strides"), pair(dilation, "dilation")
    window = (kernel.shape[0] - 1) * dy + 1, (kernel.shape[1] - 1) * dx + 1
    pads = pad_widths(x, window, steps, padding)
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    has_static_batch = isinstance(x.shape[0], int)  # in jax.export it may be a symbol
    if _prefers_matrix() and groups == 1 and (dy, dx) == (1, 1) and has_static_batch:
        return _matrix_conv(x, kernel, steps, pads)
    return lax.conv_general_dilated(
        x,
        kernel,
        steps,
        pads,
        rhs_dilation=(dy, dx),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


class Conv(nn.Module):
    """A two-dimensional ``flax.linen.Conv`` with the lowering of ``conv``.

    The parameters have the names, shapes and initializers of ``flax.linen.Conv``, so the parameters
    of one layer fit the other. The fields have the same names, but ``flax.linen.Conv`` has more of
    them.

    Attributes:
        features: The number of output channels.
        kernel_size: One number or (height, width).
        strides: The steps between windows, one number or (vertical, horizontal).
        padding: ``"SAME"``, ``"VALID"`` or ((top, bottom), (left, right)).
        kernel_dilation: The steps between the entries of a window.
        feature_group_count: The number of groups of channels that are convolved separately.
        use_bias: Whether a bias is added to each output channel.
        dtype: The dtype of the computation; that of the input and the parameters if ``None``.
        param_dtype: The dtype of the parameters.
        kernel_init: The initializer of the kernel.
        bias_init: The initializer of the bias.

    >>> params = Conv(6, (5, 5)).init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))["params"]
    >>> params["kernel"].shape, params["bias"].shape
    ((5, 5, 3, 6), (6,))
    """

    features: int
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "SAME"
    kernel_dilation: Pair = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: jax.typing.DTypeLike | None = None
    param_dtype: jax.typing.DTypeLike = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return the responses to images (..., h, w, c); all leading axes are kept."""
        c, groups = x.shape[-1], self.feature_group_count
        if c % groups or self.features % groups:
            raise ValueError(
                f"feature_group_count is {groups}; expected a divisor of both the {c} input "
                f"channels and the {self.features} features"
            )
        shape = (*pair(self.kernel_size, "kernel_size"), c // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv(
            x.reshape(-1, *x.shape[-3:]),
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation=self.kernel_dilation,
            groups=groups,
        )
        y = y.reshape(*x.shape[:-3], *y.shape[1:])
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


class _Axis(NamedTuple):
    """The grouping of windows along one axis into ``tiles`` tiles of ``tile`` neighboring windows.

    A tile sees ``span`` blocks of ``block`` entries, and the next tile starts one block further. A
    tile of size 1 is one window; in a tile of size 2, two windows share the entries that both see.

    Attributes:
        out: The number of windows.
        tile: The number of windows in a tile, 1 or 2.
        stride: The step between windows.
        span: The number of blocks that a tile sees.
        pads: The padding before and after the axis; negative values cut entries off.
    """

    out: int
    tile: int
    stride: int
    span: int
    pads: tuple[int, int]

    @property
    def block(self) -> int:
        return self.tile * self.stride

    @property
    def tiles(self) -> int:
        return -(-self.out // self.tile)


def _axis(size: int, window: int, stride: int, pads: Two, features: int) -> _Axis:
    out = (size + sum(pads) - window) // stride + 1
    span = {t: -(-(window + (t - 1) * stride) // (t * stride)) for t in (1, 2)}
    # With few output channels, a product leaves registers half empty, and each pixel is repeated in
    # many patches. Two windows per patch share pixels and fill the registers, at the price of some
    # products with zero.
    tile = 2 if features <= 16 and out > 1 and span[2] < span[1] else 1
    high = (-(-out // tile) + span[tile] - 1) * tile * stride - size - pads[0]
    return _Axis(out=out, tile=tile, stride=stride, span=span[tile], pads=(pads[0], high))


def _matrix_conv(x: Array, kernel: Array, strides: Two, pads: Pads) -> Array:
    rows, cols = (
        _axis(x.shape[a + 1], kernel.shape[a], strides[a], pads[a], kernel.shape[3]) for a in (0, 1)
    )
    matrix = _banded(kernel, rows, cols)

    def responses(x):
        return _pixels(_patches(x, rows, cols) @ matrix, rows, cols)

    b = x.shape[0]
    count = -(-b * rows.tiles * cols.tiles * matrix.shape[0] * x.dtype.itemsize // _BLOCK_BYTES)
    if count <= 1 or b <= 1:
        return responses(x)
    size = -(-b // count)
    count = -(-b // size)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, count * size - b, 0), *3 * ((0, 0, 0),)))
    # The backward pass recomputes the patches, which is faster than reading them from memory.
    blocks = jax.checkpoint(responses, prevent_cse=False)
    y = lax.map(blocks, x.reshape(count, size, *x.shape[1:]))
    return y.reshape(count * size, *y.shape[2:])[:b]


def _patches(x: Array, rows: _Axis, cols: _Axis) -> Array:
    """Return the entries that each tile of windows sees as one row, block by block."""
    b, _, _, c = x.shape
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows.pads, 0), (*cols.pads, 0), (0, 0, 0)))
    height, width = x.shape[1] // rows.block, x.shape[2] // cols.block
    x = x.reshape(b, height, rows.block, width, cols.block, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, height, width, rows.block * cols.block * c)
    return jnp.concatenate(
        [
            x[:, i : i + rows.tiles, j : j + cols.tiles]
            for i in range(rows.span)
            for j in range(cols.span)
        ],
        axis=-1,
    )


def _banded(kernel: Array, rows: _Axis, cols: _Axis) -> Array:
    """Return the kernel, placed once for each window of a tile: (entries of a row, windows * o)."""
    kh, kw, c, o = kernel.shape
    height, width = rows.span * rows.block, cols.span * cols.block
    zero = jnp.zeros((), kernel.dtype)
    placed = [
        lax.pad(
            kernel,
            zero,
            ((p, height - kh - p, 0), (q, width - kw - q, 0), (0, 0, 0), (0, 0, 0)),
        )
        for p in range(0, rows.block, rows.stride)
        for q in range(0, cols.block, cols.stride)
    ]
    matrix = jnp.stack(placed, axis=3).reshape(
        rows.span, rows.block, cols.span, cols.block, c, len(placed) * o
    )
    return matrix.transpose(0, 2, 1, 3, 4, 5).reshape(-1, len(placed) * o)


def _pixels(y: Array, rows: _Axis, cols: _Axis) -> Array:
    """Return tiles (b, tiles, tiles, windows * o) as an image (b, oh, ow, o)."""
    b = y.shape[0]
    o = y.shape[3] // (rows.tile * cols.tile)
    y = y.reshape(b, rows.tiles, cols.tiles, rows.tile, cols.tile, o).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(b, rows.tiles * rows.tile, cols.tiles * cols.tile, o)
    return y[:, : rows.out, : cols.out]


def _prefers_matrix() -> bool:
    return jax.default_backend() == "cpu"


def _check_channels(x: Array, kernel: Array, groups: int) -> None:
    array("x", x)
    array("kernel", kernel)
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"the images have shape {x.shape} and the kernel has shape {kernel.shape}; expected "
            "four axes each, (b, h, w, c) and (kh, kw, c / groups, o)"
        )
    if x.shape[3] != groups * kernel.shape[2] or kernel.shape[3] % groups:
        raise ValueError(
            f"images {x.shape} have {x.shape[3]} channels, but the kernel {kernel.shape} reads "
            f"{kernel.shape[2]} in each of {groups} group(s), which must divide its outputs"
        )
