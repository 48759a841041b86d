"""The sparse Jacobian of one equation, as edges between a result and an operand."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import Array
from funcdl.density._primitives.slope import ONE, Numbers, Slope


class Local(NamedTuple):
    """The values from which the slopes of an equation are computed.

    Attributes:
        operands: The values of the operands.
        result: The value of the first result.
        magnitude: ``position of an operand -> Slope`` that equals the value of the operand.
    """

    operands: tuple
    result: Array
    magnitude: Callable


class LocalJacobian(NamedTuple):
    """The nonzero entries (edges) of the Jacobian of a result by one operand, sorted by row.

    Attributes:
        rows: The position in the result, for each edge.
        cols: The position in the operand, for each edge.
        slope: ``(Local, edges) -> Slope``, the derivatives at some edges; None if only the pattern
            is known.
    """

    rows: np.ndarray
    cols: np.ndarray
    slope: Callable | None = None

    def is_identity(self, size: int) -> bool:
        """Tell whether each of ``size`` numbers reads exactly the number at its own position."""
        line = np.arange(size)
        return np.array_equal(self.rows, line) and np.array_equal(self.cols, line)


def unit(_values: Local, _edges: np.ndarray) -> Slope:
    """Return the slope 1; the field ``slope`` of edges that only move numbers."""
    return ONE


class Everything(NamedTuple):
    """The dense local Jacobian: each number of the result reads each number of the operand."""


EVERYTHING = Everything()


def by_row(rows: np.ndarray, cols: np.ndarray, slope: Callable | None) -> LocalJacobian:
    """Build a local Jacobian from edges in any order."""
    order = np.argsort(rows, kind="stable")
    return LocalJacobian(rows[order], cols[order], slope)


class Partly(NamedTuple):
    """A slope that is known at some of the edges.

    Attributes:
        slope: ``(Local, edges) -> Slope``, as in ``LocalJacobian``.
        exact: Whether the slope is known, for each edge.
    """

    slope: Callable
    exact: np.ndarray

    def __call__(self, values: Local, edges: np.ndarray) -> Slope:
        return self.slope(values, edges)


def is_known(local: LocalJacobian, edges: np.ndarray) -> bool:
    """Tell whether the slopes of all given edges are known."""
    if isinstance(local.slope, Partly):
        return bool(local.slope.exact[edges].all())
    return local.slope is not None


def widened(x: Numbers) -> Numbers:
    """Convert a float value to at least float32, in which slopes and logarithms are computed."""
    if isinstance(x, float | int | bool) or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x if _tree.wide(x.dtype) == x.dtype else x.astype(_tree.wide(x.dtype))


def take(x: Numbers, positions: np.ndarray) -> Numbers:
    """Gather positions of a flat array; by a slice or a copy-free return where possible."""
    # a gather, and the scatter of its derivative, cost more than the arithmetic on the result
    if jnp.ndim(x) == 0 or len(positions) == len(x) == 1:
        return x
    if len(positions) and np.array_equal(positions, np.arange(positions[0], positions[-1] + 1)):
        is_all = len(positions) == len(x)
        return x if is_all else x[positions[0] : positions[-1] + 1]
    return x[positions]


def taken(slope: Slope, edges: np.ndarray) -> Slope:
    """Gather positions of a slope, factor by factor; a scalar stays a scalar."""

    def some(x):
        return take(jnp.ravel(x), edges) if jnp.size(x) > 1 else jnp.reshape(x, ())

    factors = tuple((f if isinstance(f, float) else some(f), power) for f, power in slope.factors)
    return Slope(factors, None if slope.log is None else some(slope.log))


def spread(slope: Slope, shape: tuple) -> Slope:
    """Broadcast a slope to a shape, factor by factor; a scalar stays a scalar."""

    def wide(x):
        return x if jnp.size(x) == 1 else jnp.broadcast_to(x, shape)

    factors = tuple((f if isinstance(f, float) else wide(f), power) for f, power in slope.factors)
    return Slope(factors, None if slope.log is None else wide(slope.log))
