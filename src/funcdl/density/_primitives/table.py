"""The table of all records, and the questions that are asked of it by name."""

from funcdl.density._primitives.arithmetic import NARY, STEPWISE
from funcdl.density._primitives.axes import AXES
from funcdl.density._primitives.elementwise import UNARY
from funcdl.density._primitives.interval import Interval
from funcdl.density._primitives.moves import MOVES
from funcdl.density._primitives.primitive import Inverse, Primitive

# what lies inside a branch is read from its jaxpr, in ``nested_jaxprs`` and ``_control_flow``
NESTED = {"cond": Primitive(jumps=True)}
PRIMITIVES: dict[str, Primitive] = {**UNARY, **NARY, **STEPWISE, **MOVES, **AXES, **NESTED}
UNKNOWN = Primitive()

# the static that every elementwise operation with a derivative has, or a reason why not
FACTS = ("slopes", "slope_bounds", "bounds", "inverse")


def record(name: str) -> Primitive:
    """Return the record of a primitive; an unknown one has no static."""
    return PRIMITIVES.get(name, UNKNOWN)


def is_move(name: str) -> bool:
    """Whether an operation only moves numbers."""
    return record(name).sources is not None


def is_elementwise(name: str) -> bool:
    """Whether the derivatives of an operation are known number by number."""
    return record(name).slopes is not None


def is_pointwise(name: str) -> bool:
    """Whether each number of the result follows from numbers that the operation moves to it."""
    return is_elementwise(name) or is_move(name) or record(name).pointwise


def inverse_of(name: str, params: dict, position: int, domain: Interval) -> Inverse | None:
    """Return the inverse of an elementwise operation by one operand, the others known.

    Args:
        name: The name of the primitive.
        params: The parameters of the equation.
        position: The position of the operand.
        domain: Bounds of the operand.

    Returns:
        None if the operation is not injective there, or no inverse is known.
    """
    rule = record(name).inverse
    return rule(params, position, domain) if rule else None


def is_folding(name: str, params: dict, domain: Interval) -> bool:
    """Tell whether an elementwise operation sends several numbers of its domain to one."""
    return record(name).folds and inverse_of(name, params, 0, domain) is None


def coverage() -> dict[str, dict[str, str]]:
    """Return for each elementwise operation with a derivative what is known of it.

    Returns:
        ``{primitive: {fact: "yes", the reason for its absence, or ""}}``; the empty string is a
        gap that nobody has explained.
    """
    return {
        name: {
            fact: "yes" if getattr(entry, fact) is not None else entry.missing.get(fact, "")
            for fact in FACTS
        }
        for name, entry in PRIMITIVES.items()
        if entry.slopes is not None
    }
