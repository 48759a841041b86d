"""Operators over data that does not fit in memory: the host reads, the device multiplies."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from funcdl import _batching, _tree
from funcdl._check import concrete
from funcdl._typing import Globs, PyTree
from funcdl.curvature._block_derivatives import Leaves, vectors
from funcdl.operators import LinearOperator


class StreamOperator:
    """A symmetric operator that reads a stream of batches for every product.

    It cannot be traced; ``A @ v`` is a host loop over compiled parts, and ``as_scipy()`` makes it
    available to the solvers of ``scipy.sparse.linalg``. The result does not depend on the order of
    the batches or on the split. If the examples of two passes differ, the product raises an error,
    since it would not be linear.

    ``hessian``, ``ggn`` and the Fisher matrices return it for a stream.

    Args:
        product: ``product(functions, leaves, v, batch) -> (direction, weight)``, sums over a batch.
        functions: A tuple of ``Partial``.
        params: Any pytree of float arrays.
        stream: An iterable of batches that starts again at each pass.
        psd: Whether the operator is positive semi-definite.
        where: Globs for the leaves of ``params`` that it acts on.
    """

    symmetric = True

    def __init__(
        self,
        product: Callable,
        functions: tuple,
        params: PyTree,
        stream: Iterable,
        *,
        psd: bool,
        where: tuple[str, ...] = ("**",),
    ):
        self._part = partial(_part, product, where, functions, params)
        self._remake = partial(StreamOperator, product, functions, params, stream, psd=psd)
        self._stream, self.psd = stream, psd
        self.space_in = self.space_out = vectors(_tree.select(params, where).chosen)
        self._seen: np.ndarray | None = None

    @property
    def shape_in(self) -> PyTree:
        """The structure of ``v`` in ``A @ v``, and of the product."""
        return self.space_in.tree

    shape_out = shape_in

    @property
    def T(self) -> "StreamOperator":
        """The operator itself: it is symmetric."""
        return self

    def __matmul__(self, v: PyTree) -> PyTree:
        """Multiply by a vector like ``shape_in``, in one pass over the stream."""
        _tree.check_like(v, self.shape_in, "v in A @ v", "A.shape_in")
        if any(concrete(x) is None for x in jax.tree.leaves(v)):
            raise TypeError(
                "v in A @ v is traced, but A reads a stream on the host; use data in memory, or "
                "a host solver with A.as_scipy()"
            )
        sums: Any = None
        seen = np.zeros(2)
        for batch in self._stream:
            batch = jax.tree.map(np.asarray, batch)  # a loader may yield tensors of its own type
            seen += _fingerprint(batch)
            part = self._part(v, batch)
            sums = part if sums is None else _tree.add(sums, part)
        self._check(seen)
        direction, weight = sums
        return _tree.scale(1 / weight, direction)

    def block(self, where: Globs) -> "StreamOperator":
        """Restrict the operator to the leaves that globs select; only these are differentiated."""
        return self._remake(where=(where,) if isinstance(where, str) else tuple(where))

    def as_scipy(self) -> Any:
        """Return a ``scipy.sparse.linalg.LinearOperator`` on raveled host vectors."""
        from scipy.sparse import linalg

        flatten, unflatten = _tree.ravel(self.shape_in)
        size, dtype = self.space_in.size, np.dtype(self.space_in.leaves[0].dtype)
        multiply = lambda v: np.asarray(flatten(self @ unflatten(v.reshape(-1).astype(dtype))))
        # SciPy's __new__ dispatches on these arguments, which its stub does not declare
        build: Any = linalg.LinearOperator
        return build((size, size), matvec=multiply, rmatvec=multiply, dtype=dtype)

    def __repr__(self) -> str:
        kind = "psd" if self.psd else "symmetric"
        return f"StreamOperator({self.space_in.size} -> {self.space_out.size}, {kind})"

    def _check(self, seen: np.ndarray) -> None:
        if seen[0] == 0:
            raise ValueError("data has no examples: the stream was empty in this pass")
        first = self._seen = seen if self._seen is None else self._seen
        if seen[0] != first[0]:
            raise ValueError(
                f"data changes between passes: {first[0]:g} examples first, now {seen[0]:g}; the "
                "stream must start from its beginning at each pass, and must not drop anything"
            )
        if not abs(seen[1] - first[1]) <= 1e-5 * max(abs(first[1]), 1):  # also rejects NaN
            raise ValueError(
                f"data changes between passes: a sum over it was {first[1]:.9g} first, now it is "
                f"{seen[1]:.9g}; switch random augmentation off, or fix its seed for each pass"
            )


def _fingerprint(batch: PyTree) -> np.ndarray:
    """Count the examples, and sum the square of a sum over each; the order does not matter."""
    count, leaves = _batching.examples(batch), jax.tree.leaves(batch)
    rows = [x.reshape(count, -1) if x.ndim else np.full((count, 1), x) for x in leaves]
    # the entries of an example are weighted by position, so that a permutation is noticed
    per_example = sum(
        x @ np.cos(np.arange(x.shape[1]) + k, dtype=x.dtype)
        if x.dtype.kind == "f"
        else x @ (1 + np.arange(x.shape[1]) % 97)
        for k, x in enumerate(rows)
    )
    return np.asarray([count, np.square(per_example, dtype=float).sum()])


@partial(jax.jit, static_argnums=(0, 1))
def _part(
    product: Callable,
    where: tuple[str, ...],
    functions: tuple,
    params: PyTree,
    v: PyTree,
    batch: PyTree,
) -> tuple:
    v = jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), v)
    direction, weight = product(functions, Leaves(params, where, where), v, batch)
    return jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), direction), weight


# The result of ``hessian`` and its kin. Which of the two it is depends on the data, which no type
# says: type checkers see the operator of data in memory, which every solver here accepts.
if TYPE_CHECKING:
    Operator = LinearOperator
else:
    Operator = LinearOperator | StreamOperator
