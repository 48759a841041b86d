"""The record of a primitive: everything that this room knows about one jax operation.

One record per primitive keeps its facts together, so that adding a primitive is one edit and a
missing fact is visible. The records are in ``elementwise``, ``arithmetic``, ``moves`` and
``axes``; ``table`` collects them, and every other file asks the table.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from funcdl.density._primitives.interval import UNBOUNDED, Interval
from funcdl.density._primitives.slope import Numbers
from funcdl.density._program.program import Equation, Operand


@runtime_checkable
class Known(Protocol):
    """The questions that a record may ask about an operand while tracing.

    ``StaticValues`` answers them. It is built from the records, hence this protocol.
    """

    def value(self, operand: Operand) -> np.ndarray | None:
        """Return the value of an operand that is a constant, or None."""
        ...

    def support(self, operand: Operand) -> np.ndarray | None:
        """Return where an operand may differ from 0; None if it may everywhere."""
        ...

    def moved(self, equation: Equation, values: list, stand_ins: list) -> np.ndarray | list | None:
        """Run an operation that moves numbers on arrays of positions instead of its operands."""
        ...


class Inverse(NamedTuple):
    """The inverse of an elementwise operation with respect to one operand.

    Attributes:
        function: ``(params, result, *other operands) -> operand``.
        image: The open interval of values that the operation takes.
    """

    function: Callable
    image: Interval = UNBOUNDED


class Primitive(NamedTuple):
    """The facts about one primitive; ``None`` or ``False`` if a fact is unknown or does not hold.

    The rules of elementwise primitives take the ``params`` of the equation. The rules of the others
    take the ``Equation``, which has the shapes of the operands.

    Attributes:
        slopes: ``(params, *operands, result) -> one Slope per operand``, the derivatives.
        slope_bounds: ``(position, operand intervals, result interval, params) -> Interval`` that
            contains the derivative with respect to one operand. A bound of 0 is attained at single
            points only; ``BELOW_ZERO`` stands for a derivative that vanishes on an interval.
        bounds: ``(params, *operand intervals) -> Interval`` that contains the result.
        inverse: ``(params, position, domain) -> Inverse | None``, with respect to one operand while
            the others are known; None where the operation is not injective on ``domain``.
        folds: Whether several numbers of a domain without ``inverse`` have the same result.
        support: ``(params, *masks) -> mask`` of the results that may differ from 0, given the masks
            of the operands; ``None`` if all may.
        magnitude: ``(operands, magnitude) -> Slope`` that equals the result, for operations that
            can be written with an exponential; ``magnitude(position)`` is the same for an operand.
        pointwise: Whether a result without derivative follows from the operands at its position.
        flat: Whether the derivative is 0 wherever it exists.
        jumps: Whether the result is discontinuous in a float operand.
        choice: Whether each result equals one of the operands.
        linear: ``"jointly"`` if linear in all float operands at once, ``"separately"`` if linear
            in each of them while the others are fixed.
        evaluate: ``(params, *arrays) -> array`` in NumPy, because jax would compile each operation.
        sources: For an operation that only moves numbers, the positions of the operands that the
            numbers of the result come from.
        indices: The positions of the operands that say where numbers go; they must be constants.
        in_place: Whether numbers keep their positions, so that only the dtype changes.
        rebuild: ``(*arrays, **params) -> array``, for arrays whose dtype differs from the
            equation's.
        reads: ``(equation, live positions, static) -> list[dict] | None``: the sparsity of an
            operation along axes, as ``sparsity.reads`` returns it.
        solve: ``(equation, position, static) -> ((result, operands) -> operand) | None``.
        missing: The reason why a fact is left out, by the name of its field.
    """

    slopes: Callable | None = None
    slope_bounds: Callable | None = None
    bounds: Callable | None = None
    inverse: Callable | None = None
    folds: bool = False
    support: Callable | None = None
    magnitude: Callable | None = None
    pointwise: bool = False
    flat: bool = False
    jumps: bool = False
    choice: bool = False
    linear: str = ""
    evaluate: Callable | None = None
    sources: tuple[int, ...] | slice | None = None
    indices: slice = slice(0, 0)
    in_place: bool = False
    rebuild: Callable | None = None
    reads: Callable | None = None
    solve: Callable | None = None
    missing: Mapping[str, str] = {}

    def moved_from(self, operands: list) -> list:
        """Select the operands that the numbers of the result come from."""
        if isinstance(self.sources, slice):
            return operands[self.sources]
        return [operands[position] for position in self.sources or ()]


POSITIVE: Interval = (0.0, math.inf)
NEGATIVE: Interval = (-math.inf, 0.0)


def everywhere(*functions: Callable, image: Interval = UNBOUNDED) -> Callable:
    """Return the field ``inverse`` of an operation that is injective in each operand everywhere.

    Args:
        functions: One ``Inverse.function`` per operand.
        image: The interval of values that the operation takes.

    Returns:
        The field ``inverse`` of a record.
    """
    return lambda _params, position, _domain: Inverse(functions[position], image)


def on_intervals(*branches: tuple[Interval, Inverse]) -> Callable:
    """Return the field ``inverse`` of a function of one number, injective on some intervals.

    Args:
        branches: Pairs of an interval and the inverse on it.

    Returns:
        The field ``inverse`` of a record.
    """

    def inverse(_params: dict, _position: int, domain: Interval) -> Inverse | None:
        return next(
            (inv for (low, high), inv in branches if low <= domain[0] and domain[1] <= high), None
        )

    return inverse


def between(low: float, high: float) -> Callable:
    """Return the field ``slope_bounds`` for a derivative that lies between two numbers."""
    return lambda _position, _operands, _result, _params: (low, high)


def keeps_zero(_params: dict, mask: Numbers) -> Numbers:
    """Return the support of f(x) from that of x; the field ``support`` where f(0) = 0."""
    return mask
