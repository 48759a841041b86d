"""Linear maps between pytrees, known only through their products."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from funcdl._typing import Array, ArrayLike, Globs, PyTree
from funcdl.operators._core import algebra as _algebra
from funcdl.operators._core import checks, interop
from funcdl.operators._core import views as _views
from funcdl.operators._core.interop import Cost
from funcdl.operators._core.space import Action, Space


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["operands"],
    meta_fields=["action", "space_in", "space_out", "symmetric", "psd"],
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearOperator:
    r"""A linear map :math:`A` between pytrees; a pytree itself, with parameters and data as leaves.

    Build one with ``from_function``, ``from_dense`` or the functions of ``funcdl.curvature``.
    ``A @ v``, ``A.mm(V)``, ``A.T``, ``A + B``, ``A - B``, ``A @ B``, ``c * A``, ``A.solve(b)``,
    ``A.shift(damping)``, ``A.inv(damping)``, ``A.block(rows, columns)``, ``A.dense()``.

    Attributes:
        action: The functions that compute products, solves and so on; static.
        operands: The arrays that these functions take first, a pytree.
        space_in: The structure of the vectors that A takes; static.
        space_out: The structure of the vectors that A returns; static.
        symmetric: Whether :math:`A = A^\top`.
        psd: Whether also :math:`v^\top A v \ge 0` for all v.
    """

    action: Action
    operands: PyTree
    space_in: Space
    space_out: Space
    symmetric: bool = False
    psd: bool = False

    __array_priority__ = 1000  # makes numpy scalars leave c * A to this class

    @property
    def _spaces(self) -> tuple[Space, Space]:
        return self.space_in, self.space_out

    @property
    def shape_in(self) -> PyTree:
        """The structure of ``v`` in ``A @ v``: a tree of ``jax.ShapeDtypeStruct``."""
        return self.space_in.tree

    @property
    def shape_out(self) -> PyTree:
        """The structure of ``A @ v``: a tree of ``jax.ShapeDtypeStruct``."""
        return self.space_out.tree

    @property
    def T(self) -> "LinearOperator":
        """The transpose; a symmetric operator is its own transpose."""
        if self.symmetric:
            return self
        action = _algebra.like(_algebra.TRANSPOSED, self.action)
        return LinearOperator(action, self, self.space_out, self.space_in)

    def __matmul__(self, v: Any) -> Any:
        """Multiply by a vector like ``shape_in``, or compose with an operator."""
        if isinstance(v, LinearOperator):
            checks.other_space("A @ B", self.space_in, v.space_out)
            spaces, gram = (v.space_in, self.space_out), _algebra.is_gram(self, v)
            action = _algebra.like(_algebra.CHAINED, self.action, v.action)
            return LinearOperator(action, (self, v), *spaces, gram, gram)
        remedy = "A.mm(V) multiplies them, one per row of V"
        checks.vector(v, self.shape_in, "v in A @ v", "A.shape_in", remedy)
        v = jax.tree.map(lambda x, form: jnp.asarray(x, form.dtype), v, self.shape_in)
        return _product(self, v)

    def mm(self, vectors: PyTree, *, chunk: int | None = None) -> PyTree:
        """Multiply by k vectors, stacked along a leading axis of every leaf.

        Args:
            vectors: A tree like ``shape_in`` with a leading axis k.
            chunk: How many vectors to multiply at a time. The default is 1 on CPU, where one
                after the other is faster, and 32 on accelerators.

        Returns:
            A tree like ``shape_out`` with a leading axis k.
        """
        if chunk is None:
            chunk = 1 if jax.default_backend() == "cpu" else 32
        return _products(self, vectors, chunk)

    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, LinearOperator):
            return NotImplemented
        checks.other_space("A + B", self.space_in, other.space_in)
        checks.other_space("A + B", self.space_out, other.space_out)
        flags = self.symmetric and other.symmetric, self.psd and other.psd
        return LinearOperator(_algebra.SUMMED, (self, other), *self._spaces, *flags)

    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        return self + (-1.0) * other

    def __mul__(self, c: "ArrayLike | LinearOperator") -> "LinearOperator":
        if isinstance(c, LinearOperator):
            return NotImplemented
        operands = checks.no_scalar("c in c * A", c), self
        psd = self.psd and checks.not_negative(c)
        action = _algebra.like(_algebra.SCALED, self.action)
        return LinearOperator(action, operands, *self._spaces, self.symmetric, psd)

    __rmul__ = __mul__

    def __truediv__(self, c: ArrayLike) -> "LinearOperator":
        return self * (1 / c)

    def __neg__(self) -> "LinearOperator":
        return (-1.0) * self

    def __repr__(self) -> str:
        kind = ", psd" if self.psd else ", symmetric" if self.symmetric else ""
        return f"LinearOperator({self.space_in.size} -> {self.space_out.size}{kind})"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(checks.other_name(name))

    def shift(self, damping: ArrayLike) -> "LinearOperator":
        r"""Add a multiple of the identity, :math:`A + \lambda I`."""
        checks.not_square(self)
        operands = checks.no_scalar("damping", damping), self
        psd = self.psd and checks.not_negative(damping)
        action = _algebra.like_shifted(self.action)
        return LinearOperator(action, operands, *self._spaces, self.symmetric, psd)

    def solve(self, b: PyTree) -> PyTree:
        """Solve ``A x = b`` for a vector like ``shape_out``, where A has a direct method.

        Args:
            b: The right-hand side.

        Returns:
            A vector like ``shape_in``.

        Raises:
            ValueError: If A is not square.
            TypeError: If A has no direct method; ``cg``, ``minres``, ``lsmr`` only need products.
        """
        checks.indirect(self, "solve")
        remedy = "use jax.vmap(A.solve, 1, 1) for the columns of a matrix, or jax.vmap(A.solve)"
        checks.vector(b, self.shape_out, "b in A.solve(b)", "A.shape_out", remedy)
        b = jax.tree.map(lambda x, form: jnp.asarray(x, form.dtype), b, self.shape_out)
        return _solution(self, b)

    def logdet(self) -> Array:
        r"""Return :math:`\log |\det A|` where A has a direct method; raise as ``solve`` does."""
        checks.indirect(self, "logdet")
        return _logdet(self)

    def inv(self, damping: ArrayLike | None = None) -> "LinearOperator":
        r"""Invert A, or :math:`A + \lambda I`, where a direct method exists: products are solves.

        Args:
            damping: The damping :math:`\lambda`; ``None`` inverts A itself.

        Returns:
            :math:`(A + \lambda I)^{-1}`, whose ``solve`` multiplies by :math:`A + \lambda I`; it
            can serve as a preconditioner for ``cg``.

        Raises:
            ValueError: If A is not square.
            TypeError: If A has no direct method, as in ``solve``.
        """
        shifted = self if damping is None else self.shift(damping)
        checks.indirect(shifted, "solve")
        return _views.inverse(shifted)

    def block(self, rows: Globs, columns: Globs | None = None) -> "LinearOperator":
        """Restrict the operator to the leaves that globs select.

        Args:
            rows: Globs for the leaves of the output.
            columns: Globs for the leaves of the input; by default the same as ``rows``.

        Returns:
            An operator between trees with ``None`` in place of the leaves that were left out.

        Raises:
            ValueError: If a glob matches no path; the message names the nearest path.
        """
        columns = rows if columns is None else columns
        make = self.action.block or _views.padded_block
        block = make(self if self.action.block is None else self.operands, rows, columns)
        return dataclasses.replace(block, psd=self.psd and block.symmetric)

    def dense(self, *, chunk: int | None = None, max_bytes: int = 2**31) -> Array:
        """Return the matrix ``(n_out, n_in)``, with both sides raveled.

        Args:
            chunk: How many columns to compute at a time, as in ``mm``.
            max_bytes: The largest size that is allowed; checked before anything is allocated.

        Returns:
            The matrix.

        Raises:
            ValueError: If the matrix would need more than ``max_bytes``.
        """
        flat = _views.raveled(self)
        n_in, n_out = self.space_in.size, self.space_out.size
        dtype = jax.tree.leaves(flat.shape_in)[0].dtype
        needed = n_in * n_out * dtype.itemsize
        if needed > max_bytes:
            raise ValueError(
                f"the dense matrix ({n_out} x {n_in}) needs {needed:,} bytes, but the limit "
                f"max_bytes is {max_bytes:,}; use the operator (eigsh, trace) or a block, "
                "A.block(where)"
            )
        known = self.action.dense and self.action.dense(self.operands)
        return flat.mm(jnp.eye(n_in, dtype=dtype), chunk=chunk).T if known is None else known

    def cost(self) -> Cost:
        """Compile one product and count its operations; runs on the host and is not traceable."""
        return interop.cost(LinearOperator.__matmul__, self, self.shape_in)

    def as_scipy(self) -> Any:
        """Return a ``scipy.sparse.linalg.LinearOperator`` on raveled host vectors."""
        return interop.as_scipy(_views.raveled(self), _views.raveled(self.T))

    def as_lineax(self) -> Any:
        """Return a ``lineax.FunctionLinearOperator`` (extra ``lineax``)."""
        return interop.as_lineax(self)


# jitted, so that calls outside of any jit compile once for each structure of operator
@jax.jit
def _product(a: LinearOperator, v: PyTree) -> PyTree:
    return a.action.matvec(a.operands, v)


@partial(jax.jit, static_argnums=2)
def _products(a: LinearOperator, vectors: PyTree, chunk: int) -> PyTree:
    return jax.lax.map(a.__matmul__, vectors, batch_size=chunk if chunk > 1 else None)


@jax.jit
def _solution(a: LinearOperator, b: PyTree) -> PyTree:
    return cast(Callable, a.action.solve)(a.operands, b)


@jax.jit
def _logdet(a: LinearOperator) -> Array:
    return cast(Callable, a.action.logdet)(a.operands)
