"""Operations that multiply by a parameter, and the two factors of the gradient at each."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import Equation
from funcdl._typing import Array
from funcdl.per_example._recording.sites import Alias, Tapped, plain, site


def dot(equation: Equation, operands: list, plainly: Callable) -> Tapped | None:
    """Record a matrix product, with any contracted and batched axes."""
    side = [isinstance(x, Alias) for x in operands]
    if all(side):
        return None
    w = side.index(True)
    contracting, batch = equation.params["dimension_numbers"]
    alias, x = operands[w], operands[1 - w]
    value = plainly(*map(plain, operands))[0]
    x_dims = _Dims(tuple(batch[1 - w]), tuple(contracting[1 - w]), x.ndim)
    w_dims = _Dims(tuple(batch[w]), tuple(contracting[w]), alias.value.ndim)
    sizes = alias.value.shape
    free_first = w == 1  # the free axes of the left operand come first in the result

    def factors(inputs, g):
        (x,) = inputs
        a = _folded(x, x_dims.batch, x_dims.free, x_dims.contracting)
        b, f_x, f_w = len(x_dims.batch), len(x_dims.free), len(w_dims.free)
        axes = range(b, g.ndim)
        x_axes, w_axes = (axes[:f_x], axes[f_x:]) if free_first else (axes[f_w:], axes[:f_w])
        return a, _folded(g, tuple(range(b)), tuple(x_axes), tuple(w_axes))

    order = (*w_dims.batch, *w_dims.contracting, *w_dims.free)

    def unfold(y):
        return y.reshape([sizes[i] for i in order]).transpose(np.argsort(order))

    return Tapped(value, (x,), site(alias, equation, "matmul", value, factors, unfold))


class _Dims(NamedTuple):
    batch: tuple[int, ...]
    contracting: tuple[int, ...]
    ndim: int

    @property
    def free(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.ndim) if i not in self.batch + self.contracting)


def _folded(x: Array, *groups: tuple[int, ...]) -> Array:
    """Transpose and reshape so that each group of axes becomes one axis."""
    shape = [int(np.prod([x.shape[i] for i in group])) for group in groups]
    return x.transpose([i for group in groups for i in group]).reshape(shape)


def conv(equation: Equation, operands: list, plainly: Callable) -> Tapped | None:
    """Record a convolution, as a product of patches and kernel."""
    x, w = operands
    p = equation.params
    if isinstance(x, Alias) or not isinstance(w, Alias) or p["batch_group_count"] != 1:
        return None
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    value = plainly(x, w.value)[0]
    kernel = w.value.shape
    window = [kernel[i] for i in numbers.rhs_spec[2:]]
    channels = kernel[numbers.rhs_spec[1]]  # per group
    space = numbers.out_spec[2:]

    def factors(inputs, g):
        (x,) = inputs
        patches = jax.lax.conv_general_dilated_patches(
            x,
            window,
            p["window_strides"],
            p["padding"],
            p["lhs_dilation"],
            p["rhs_dilation"],
            numbers,
            precision=jax.lax.Precision.HIGHEST,
        )
        a, g = (
            _folded(y, (numbers.out_spec[0], *space), (numbers.out_spec[1],)) for y in (patches, g)
        )
        a, g = (y.reshape(len(y), groups, -1).transpose(1, 0, 2) for y in (a, g))
        return a, g

    order = (numbers.rhs_spec[0], numbers.rhs_spec[1], *numbers.rhs_spec[2:])  # out, in, window

    def unfold(y):  # (groups, channels * window, out)
        y = y.transpose(0, 2, 1).reshape(-1, channels, *window)
        return y.transpose(np.argsort(order))

    return Tapped(value, (x,), site(w, equation, "convolution", value, factors, unfold))


def rows(equation: Equation, operands: list, plainly: Callable) -> Tapped | None:
    """Record a look-up of rows of a table, such as an embedding."""
    table, indices = operands
    if not isinstance(table, Alias) or isinstance(indices, Alias):
        return None
    n, shape = equation.params["dimension_numbers"], table.value.shape
    offset = tuple(range(indices.ndim - 1, indices.ndim - 1 + len(shape) - 1))
    whole_rows = (
        n.collapsed_slice_dims == (0,)
        and n.start_index_map == (0,)
        and n.offset_dims == offset
        and not getattr(n, "operand_batching_dims", ())
        and equation.params["slice_sizes"] == (1, *shape[1:])
    )
    if not whole_rows:
        return None
    value = plainly(table.value, indices)[0]
    clipped = equation.params["mode"] == jax.lax.GatherScatterMode.CLIP

    def factors(inputs, g):
        rows, g = inputs[0].reshape(1, -1), g.reshape(1, inputs[0].size, -1)
        valid = jnp.clip(rows, 0, shape[0] - 1)
        if not clipped:  # an index out of range has no derivative, nor does it count from the end
            g = jnp.where((rows == valid)[..., None], g, 0)
        return valid, g

    unfold = lambda y: y.reshape(shape)
    return Tapped(value, (indices,), site(table, equation, "rows", value, factors, unfold))
