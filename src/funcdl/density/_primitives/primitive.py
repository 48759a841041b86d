"""The record of a primitive: everything that densities know about one jax operation.

One record per primitive keeps its static together, so that adding a primitive is one edit and a
missing fact is visible. The records stand in ``elementwise``, ``arithmetic``, ``moves`` and
``axes``; ``table`` collects them, and every other file asks the table.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from funcdl.density._primitives.interval import UNBOUNDED, Interval


@runtime_checkable
class Known(Protocol):
    """What rules may ask about an operand before the program runs; ``StaticValues`` answers."""

    def value(self, operand) -> np.ndarray | None:
        """Return the value of an operand that is a constant."""
        ...

    def support(self, operand) -> np.ndarray | None:
        """Return where an operand may differ from 0; None if it may everywhere."""
        ...

    def moved(self, equation, values: list, stand_ins: list) -> np.ndarray | list | None:
        """Run an operation that moves numbers on arrays that stand for its operands."""
        ...


class Inverse(NamedTuple):
    """The way back from the result of an elementwise operation to one operand.

    Attributes:
        function: ``(params, result, *other operands) -> operand``.
        image: The open interval of values that the operation takes.
    """

    function: Callable
    image: Interval = UNBOUNDED


class Primitive(NamedTuple):
    """Facts about one primitive. A fact that is ``None`` or ``False`` is unknown or does not hold.

    Rules of elementwise primitives take the ``params`` of the equation, rules of the others take
    the equation with its operands (``Equation``).

    Attributes:
        slopes: ``(params, *operands, result) -> one Slope per operand``, the derivatives.
        slope_bounds: ``(position, operand intervals, result interval, params) -> Interval`` that
            contains the derivative by one operand. A bound of 0 is attained at single points only;
            ``BELOW_ZERO`` stands for a derivative that vanishes on an interval.
        bounds: ``(params, *operand intervals) -> Interval`` that contains the result.
        inverse: ``(params, position, domain) -> Inverse | None``: by one operand, the others known,
            where the operation is injective on ``domain``.
        folds: Whether several numbers of a domain without ``inverse`` have the same result.
        support: ``(params, *masks) -> mask`` of the results that may differ from 0, from those of
            the operands; ``None`` if all may.
        magnitude: ``(operands, magnitude) -> Slope`` that equals the result, where it is written
            with an exponential; ``magnitude(position)`` is the same for an operand.
        pointwise: Whether a result without derivative follows from the operands at its position.
        flat: Whether the derivative is 0 wherever it exists.
        jumps: Whether the result is discontinuous in a float operand.
        choice: Whether each result equals one of the operands.
        linear: ``"jointly"`` if linear in all float operands at once, ``"separately"`` if linear
            in each of them with the others held.
        evaluate: ``(params, *arrays) -> array``, by NumPy: jax would compile each operation.
        sources: For an operation that only moves numbers, the positions of the operands that the
            result's numbers come from.
        indices: Positions of the operands that say where numbers go; they have to be constants.
        in_place: Whether numbers keep their positions, so that only the dtype changes.
        rebuild: ``(*arrays, **params) -> array`` for operands of another dtype than the equation's.
        reads: ``(equation, live positions, static) -> list[dict] | None``: the sparsity of an
            operation along axes, as ``sparsity.reads`` returns it.
        solve: ``(equation, position, static) -> ((result, operands) -> operand) | None``.
        missing: Why a fact is left out, by the name of its field.
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
    """Return the ``inverse`` of an operation that is injective in each operand, whatever they are.

    Args:
        functions: One per operand, as in ``Inverse.function``.
        image: The values that the operation takes.

    Returns:
        The field ``inverse`` of a record.
    """
    return lambda _params, position, _domain: Inverse(functions[position], image)


def on_intervals(*branches: tuple[Interval, Inverse]) -> Callable:
    """Return the ``inverse`` of a function of one number that is injective on some intervals.

    Args:
        branches: Pairs of an interval and the inverse there.

    Returns:
        The field ``inverse`` of a record.
    """

    def inverse(_params: dict, _position: int, domain: Interval) -> Inverse | None:
        return next(
            (inv for (low, high), inv in branches if low <= domain[0] and domain[1] <= high), None
        )

    return inverse


def between(low: float, high: float) -> Callable:
    """Return the ``slope_bounds`` of a derivative that lies between two numbers."""
    return lambda _position, _operands, _result, _params: (low, high)


def keeps_zero(_params: dict, mask):
    """The ``support`` of a function of one number with f(0) = 0."""
    return mask
