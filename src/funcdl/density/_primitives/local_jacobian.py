"""The sparse local Jacobian of one equation, as edges between a result and an operand."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.density._primitives.slope import ONE, Slope


class Local(NamedTuple):
    """What the slope of an equation is computed from.

    Attributes:
        operands: Values.
        result: Value of the first result.
        magnitude: ``position of an operand -> Slope`` that equals its value.
    """

    operands: tuple
    result: Array
    magnitude: Callable


class LocalJacobian(NamedTuple):
    """The edges between a result and one operand, sorted by row.

    Attributes:
        rows: Position in the result, by edge.
        cols: Position in the operand, by edge.
        slope: ``(Local, edges) -> Slope`` of these edges; None
            where only the pattern is known.
    """

    rows: np.ndarray
    cols: np.ndarray
    slope: Callable | None = None

    def is_identity(self, size: int) -> bool:
        """Whether each of so many numbers reads the one at its own position."""
        line = np.arange(size)
        return np.array_equal(self.rows, line) and np.array_equal(self.cols, line)


def unit(_values, _edges: np.ndarray) -> Slope:
    """The slope 1."""
    return ONE


class Everything(NamedTuple):
    """The dense local Jacobian: each number of the result reads each number of the operand."""


EVERYTHING = Everything()


def by_row(rows, cols, slope) -> LocalJacobian:
    order = np.argsort(rows, kind="stable")
    return LocalJacobian(rows[order], cols[order], slope)


class Partly(NamedTuple):
    """A slope known at some edges.

    Attributes:
        slope: As of ``LocalJacobian``.
        exact: Whether it is known, by edge.
    """

    slope: Callable
    exact: np.ndarray

    def __call__(self, values, edges) -> Slope:
        return self.slope(values, edges)


def is_known(edges: LocalJacobian, at: np.ndarray) -> bool:
    """Tell whether the slopes of some edges are known."""
    if isinstance(edges.slope, Partly):
        return bool(edges.slope.exact[at].all())
    return edges.slope is not None


def take(x, positions: np.ndarray):
    """Gather positions of a flat array; what is contiguous is sliced, what is whole is returned."""
    if jnp.ndim(x) == 0 or len(positions) == len(x) == 1:
        return x
    if len(positions) and np.array_equal(positions, np.arange(positions[0], positions[-1] + 1)):
        whole = len(positions) == len(x)
        return x if whole else x[positions[0] : positions[-1] + 1]
    return x[positions]


def taken(slope: Slope, edges: np.ndarray) -> Slope:
    """Gather positions of a product, factor by factor; a scalar stays one."""

    def some(x):
        return take(jnp.ravel(x), edges) if jnp.size(x) > 1 else jnp.reshape(x, ())

    factors = tuple((f if isinstance(f, float) else some(f), power) for f, power in slope.factors)
    return Slope(factors, None if slope.log is None else some(slope.log))


def spread(slope: Slope, shape: tuple) -> Slope:
    """Broadcast a product to a shape, factor by factor; a scalar stays one."""

    def wide(x):
        return x if jnp.size(x) == 1 else jnp.broadcast_to(x, shape)

    factors = tuple((f if isinstance(f, float) else wide(f), power) for f, power in slope.factors)
    return Slope(factors, None if slope.log is None else wide(slope.log))
