"""Operators over data that does not fit in memory: the host reads, the device multiplies."""

from collections.abc import Callable, Iterable
from functools import partial

import jax
import numpy as np

from funcdl import _batching, _tree
from funcdl._check import concrete
from funcdl._typing import PyTree
from funcdl.curvature._block_derivatives import Leaves, vectors


class StreamOperator:
    """A symmetric operator that reads a stream of batches for every product.

    It cannot be traced; ``A @ v`` is a loop of the host over compiled parts, and ``as_scipy()``
    hands it to the solvers of ``scipy.sparse.linalg``. The order of the batches and how they are
    cut do not matter. If the examples of two passes differ, the product is refused: it would not
    be linear.

    ``hessian``, ``ggn`` and the Fisher matrices make it.

    Args:
        product: ``product(functions, leaves, v, batch) -> (direction, weight)``, sums over a batch.
        functions: A tuple of ``Partial``.
        params: Any pytree of float arrays.
        stream: An iterable of batches that starts again at each pass.
        psd: Whether the operator is positive semi-definite.
        where: Globs of the leaves of ``params`` that it acts on.
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
        self._seen = None

    @property
    def shape_in(self) -> PyTree:
        """The form of ``v`` in ``A @ v``, and of the product."""
        return self.space_in.tree

    shape_out = shape_in

    @property
    def T(self) -> "StreamOperator":
        """The operator itself: it is symmetric."""
        return self

    def __matmul__(self, v: PyTree) -> PyTree:
        """Multiply with a vector like ``shape_in``, in one pass over the stream."""
        _tree.check_like(v, self.shape_in, "v in A @ v", "A.shape_in")
        if any(concrete(x) is None for x in jax.tree.leaves(v)):
            raise TypeError(
                "v in A @ v is traced, but A reads a stream on the host; take data in memory, or "
                "a solver of the host by A.as_scipy()"
            )
        sums, seen = None, np.zeros(2)
        for batch in self._stream:
            batch = jax.tree.map(np.asarray, batch)  # a loader may give tensors of its own
            seen += _fingerprint(batch)
            part = self._part(v, batch)
            sums = part if sums is None else _tree.add(sums, part)
        self._check(seen)
        direction, weight = sums
        return _tree.scale(1 / weight, direction)

    def block(self, where: str | tuple[str, ...]) -> "StreamOperator":
        """Restrict to the leaves that globs name; only these are differentiated."""
        return self._remake(where=(where,) if isinstance(where, str) else tuple(where))

    def as_scipy(self):
        """Return a ``scipy.sparse.linalg.LinearOperator`` on raveled host vectors."""
        from scipy.sparse.linalg import LinearOperator as Scipy

        flatten, unflatten = _tree.ravel(self.shape_in)
        size, dtype = self.space_in.size, np.dtype(self.space_in.leaves[0].dtype)
        multiply = lambda v: np.asarray(flatten(self @ unflatten(v.reshape(-1).astype(dtype))))
        return Scipy((size, size), matvec=multiply, rmatvec=multiply, dtype=dtype)

    def __repr__(self):
        kind = "psd" if self.psd else "symmetric"
        return f"StreamOperator({self.space_in.size} -> {self.space_out.size}, {kind})"

    def _check(self, seen: np.ndarray) -> None:
        if seen[0] == 0:
            raise ValueError("data has no examples: the stream was empty in this pass")
        first = self._seen = seen if self._seen is None else self._seen
        if seen[0] != first[0]:
            raise ValueError(
                f"data changes between passes: {first[0]:g} examples first, now {seen[0]:g}; a "
                "stream starts again from its beginning each time, and drops nothing"
            )
        if not abs(seen[1] - first[1]) <= 1e-5 * max(abs(first[1]), 1):  # NaN is refused too
            raise ValueError(
                f"data changes between passes: a sum over it was {first[1]:.9g} first, now it is "
                f"{seen[1]:.9g}; switch random augmentation off, or fix its seed at each pass"
            )


def _fingerprint(batch: PyTree) -> np.ndarray:
    """Count the examples and add up the square of a sum of each; the order does not matter."""
    count, leaves = _batching.examples(batch), jax.tree.leaves(batch)
    rows = [x.reshape(count, -1) if x.ndim else np.full((count, 1), x) for x in leaves]
    # the numbers of an example are weighted by place: neither pixels nor labels may change places
    each = sum(
        x @ np.cos(np.arange(x.shape[1]) + k, dtype=x.dtype)
        if x.dtype.kind == "f"
        else x @ (1 + np.arange(x.shape[1]) % 97)
        for k, x in enumerate(rows)
    )
    return np.asarray([count, np.square(each, dtype=float).sum()])


@partial(jax.jit, static_argnums=(0, 1))
def _part(product: Callable, where, functions: tuple, params, v, batch) -> tuple:
    v = jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), v)
    direction, weight = product(functions, Leaves(params, where, where), v, batch)
    return jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), direction), weight
