"""Parameters as matrices, and their gradients as products of two matrices."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _jaxpr, _tree
from funcdl._jaxpr import Equation
from funcdl._typing import Array
from funcdl.per_example import _factor_algebra as _factors
from funcdl.per_example._factor_algebra import Factors, product

_PRODUCTS = "matmul", "convolution", "rows"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """The positions of a parameter's entries in stacked matrices ``(in, out)``; static.

    Two layouts are equal if the operations that move the entries there are equal.

    Attributes:
        shape: ``(B, in, out)``, with as many entries as the parameter.
        moves: The text of these operations.
        program: The jaxpr of these operations.
    """

    shape: tuple[int, int, int]
    moves: str
    program: Any = dataclasses.field(compare=False, repr=False)

    def matrices(self, x: Array) -> Array:
        """Rearrange an array like the parameter as ``(B, in, out)``."""
        return _jaxpr.interpret(self.program, [x], _in_any_precision)[0]

    def parameter(self, matrices: Array) -> Array:
        """Rearrange ``(B, in, out)`` as an array like the parameter."""
        form = jax.ShapeDtypeStruct(self.program.in_avals[0].shape, matrices.dtype)
        return jax.linear_transpose(self.matrices, form)(matrices)[0]


def _in_any_precision(equation: Equation, operands: list, plainly: Callable) -> list:
    if equation.primitive.name in _jaxpr.CALLS:
        return _jaxpr.interpret(_jaxpr.called(equation), operands, _in_any_precision)
    if equation.primitive.name == "convert_element_type":
        return operands
    return plainly(*operands)


class MatrixForm(NamedTuple):
    """The gradients of r outputs of n examples in one parameter, as matrices ``aᵀ g``.

    Attributes:
        layout: The positions of the parameter's entries in the matrices.
        a: ``(n, B, t, in)``, or ``(n, B, t)`` rows of a table; the t positions are summed.
        g: ``(n, r, B, t, out)``.
        is_written_out: Whether ``a`` is 1 and ``g`` the gradient itself.
    """

    layout: Layout
    a: Array
    g: Array
    is_written_out: bool = False

    @property
    def is_rows(self) -> bool:
        return self.a.ndim == 3

    @property
    def bytes(self) -> int:
        """The size of the second moments of both factors."""
        count, rows, columns = self.layout.shape
        left = rows if self.is_rows else rows**2
        return count * (left + columns**2) * self.g.dtype.itemsize


# Invariant: the gradient of an example in the parameter, moved by the layout, is the sum over the
# positions t of aᵀ g. The layout is not listed per type of layer: it follows from the linear map
# by which the parameter reached the product (``place``) and the transpose of ``unfold``, so any
# chain of reshapes and transposes has one. Where that map repeats entries or adds zeros, the
# numbers 1, 2, ... are sent through it once, while tracing, to see whether a choice of rows is the
# parameter again. Otherwise the gradient is written out as one row, which is exact but not a
# Kronecker product of smaller factors.
def matrix_form(uses: list[Factors], like: Array) -> MatrixForm:
    """Express the gradients in one parameter as matrices.

    Several products with the parameter count as further positions of one product if its entries
    have the same layout in all of them. For any other use, such as a bias, the gradient is formed:
    as one row per matrix, summed over the positions.

    Args:
        uses: The factors of the parameter, where ``g`` is ``(n, r, B, t, out)``.
        like: The parameter.

    Returns:
        The matrix form of the parameter.
    """
    layouts, inputs = zip(*(_in_matrices(use, like) for use in uses))
    layout = layouts[0]
    is_same = len({*layouts}) == 1 and len({use.is_rows for use in uses}) == 1
    if layout and is_same and all(use.site.rule in _PRODUCTS for use in uses):
        a = jnp.concatenate(inputs, axis=2)
        g = jnp.concatenate([use.g for use in uses], axis=3)
        return MatrixForm(layout, a, g)
    if layout and is_same and len(uses) == 1 and layout.shape[1] == 1:
        g = uses[0].g.sum(axis=3, keepdims=True)
    else:
        layout = _laid_out(lambda x: x.reshape(1, 1, -1), like)
        g = jax.vmap(lambda g: _gradients(uses, g, like), 1, 1)([use.g for use in uses])
    return MatrixForm(layout, jnp.ones((len(g), g.shape[2], 1, 1), g.dtype), g, True)


def _gradients(uses: list[Factors], g: list[Array], like: Array) -> Array:
    each = _factors.gradients([use._replace(g=y) for use, y in zip(uses, g)], like)
    return each.reshape(len(each), 1, 1, -1)


def _in_matrices(use: Factors, like: Array) -> tuple[Layout | None, Array]:
    """Return the layout of a parameter in one use, if it uses each entry once, and the inputs."""
    site, count, out = use.site, use.g.shape[2], use.g.shape[4]

    def moved(leaf):
        value = site.place(leaf)
        form = jax.ShapeDtypeStruct((count, site.numbers // (count * out), out), value.dtype)
        return jax.linear_transpose(site.unfold, form)(value)[0]

    if site.injective and site.numbers == like.size:
        return _laid_out(moved, like), use.a
    if count > 1 or site.numbers < like.size or like.size % out or use.is_rows:
        return None, use.a
    with jax.ensure_compile_time_eval():
        numbers = np.arange(1.0, 1 + like.size)
        values = jnp.asarray(numbers.reshape(like.shape), _tree.wide(like.dtype))
        entries = np.asarray(moved(values))
    # the kernels of a convolution are rows in another order, with rows of zeros between them
    rows = np.flatnonzero(entries[0].any(axis=1))
    rows = rows[np.argsort(entries[0, rows, 0])]
    if not np.array_equal(entries[0, rows].reshape(-1), numbers):
        return None, use.a
    return _laid_out(lambda x: x.reshape(1, -1, out), like), use.a[..., rows]


def _laid_out(moved: Callable, like: Array) -> Layout:
    form = jax.ShapeDtypeStruct(like.shape, _tree.wide(like.dtype))
    program = jax.make_jaxpr(moved)(form)
    return Layout(program.out_avals[0].shape, str(program), program)


def moments(x: MatrixForm, middle: Array, weight: Array) -> tuple[Array, Array]:
    """Sum the second moments of both factors over the examples.

    Args:
        x: The gradients.
        middle: ``(n, r, r)``, a quadratic form of the outputs.
        weight: ``(n,)``.

    Returns:
        ``(B, in, in)``, or its diagonal ``(B, in)`` for rows, a mean over positions; and
        ``(B, out, out)``, a sum over them.
    """
    share = jnp.broadcast_to((weight / x.a.shape[2])[:, None, None], x.a.shape[:3])
    a = _added(x, share, x.layout.shape[:2]) if x.is_rows else _gram(x.a, share[..., None] * x.a, 1)
    return a, _gram(x.g, product(middle, x.g, "nrs,nsbto->nrbto"), 2)


def _gram(x: Array, y: Array, side: int) -> Array:
    """Multiply along all axes except those of the stacked matrices and the last one."""
    # as plain matrices, since XLA:CPU is slower with several contracted axes
    x, y = (jnp.moveaxis(z, side, 0).reshape(z.shape[side], -1, z.shape[-1]) for z in (x, y))
    return product(x, y, "bki,bkj->bij")


def diagonal(x: MatrixForm, middle: Array) -> Array:
    """Sum the squares of the gradients, entry by entry: ``(B, in, out)``.

    Args:
        x: The gradients.
        middle: ``(n, r, r)``, the quadratic form of the outputs that defines the square.

    Returns:
        The sum over the examples.
    """
    g = product(middle, x.g, "nrs,nsbto->nrbto")
    if x.is_rows:
        # positions that look up the same row are summed before they are squared
        overlap = (x.a[..., :, None] == x.a[..., None, :]).astype(g.dtype)
        squares = product(overlap, x.g, "nbts,nrbso->nrbto") * g
        return _added(x, squares.sum(axis=1), x.layout.shape)
    if x.a.shape[2] == 1:
        return product(x.a**2, (x.g * g).sum(axis=1), "nbti,nbto->bio")
    gradient, bent = (product(x.a, y, "nbti,nrbto->nrbio") for y in (x.g, g))
    return (gradient * bent).sum(axis=(0, 1))


def _added(x: MatrixForm, values: Array, shape: tuple[int, ...]) -> Array:
    """Scatter values of the rows of a table, ``(n, B, t, ...)``, into ``(B, in, ...)``."""
    side = jnp.arange(shape[0])[None, :, None]
    return jnp.zeros(shape, values.dtype).at[side, x.a].add(values)


def turned(x: MatrixForm, left: Array | None, right: Array) -> MatrixForm:
    """Multiply both factors by bases; ``None`` means the identity."""
    a = x.a if left is None else product(x.a, left, "nbti,bij->nbtj")
    return x._replace(a=a, g=product(x.g, right, "nrbto,bop->nrbtp"))
