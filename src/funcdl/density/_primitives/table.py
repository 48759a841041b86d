"""The table of all records, with queries by the name of a primitive."""

from funcdl.density._primitives.arithmetic import NARY, STEPWISE
from funcdl.density._primitives.axes import AXES
from funcdl.density._primitives.elementwise import UNARY
from funcdl.density._primitives.interval import Interval
from funcdl.density._primitives.moves import MOVES
from funcdl.density._primitives.primitive import Inverse, Primitive

# the branches themselves are read from their jaxprs, in ``nested_jaxprs`` and ``_control_flow``
NESTED = {"cond": Primitive(jumps=True)}
PRIMITIVES: dict[str, Primitive] = {**UNARY, **NARY, **STEPWISE, **MOVES, **AXES, **NESTED}
UNKNOWN = Primitive()

# an elementwise operation with a derivative has each of these facts, or a reason why not
FACTS = ("slopes", "slope_bounds", "bounds", "inverse")


def record(name: str) -> Primitive:
    """Return the record of a primitive; that of an unknown primitive is empty."""
    return PRIMITIVES.get(name, UNKNOWN)


def holds_jaxprs(name: str) -> bool:
    """Tell whether an operation is only known by the jaxprs inside it, if it has any."""
    return name in NESTED or name not in PRIMITIVES


def is_move(name: str) -> bool:
    """Tell whether an operation only moves numbers."""
    return record(name).sources is not None


def is_elementwise(name: str) -> bool:
    """Tell whether the derivatives of an operation are known number by number."""
    return record(name).slopes is not None


def is_pointwise(name: str) -> bool:
    """Tell whether each number of the result follows from the numbers moved to its position."""
    return is_elementwise(name) or is_move(name) or record(name).pointwise


def inverse_of(name: str, params: dict, position: int, domain: Interval) -> Inverse | None:
    """Return the inverse of an elementwise operation with respect to one operand.

    Args:
        name: The name of the primitive.
        params: The parameters of the equation.
        position: The position of the operand; the other operands are known.
        domain: The interval that contains the operand.

    Returns:
        The inverse; None if the operation is not injective on the domain or no inverse is known.
    """
    rule = record(name).inverse
    return rule(params, position, domain) if rule else None


def is_folding(name: str, params: dict, domain: Interval) -> bool:
    """Tell whether an elementwise operation maps several numbers of its domain to one."""
    return record(name).folds and inverse_of(name, params, 0, domain) is None


def coverage() -> dict[str, dict[str, str]]:
    """Report which facts are known about each elementwise operation with a derivative.

    Returns:
        ``{primitive: {fact: "yes", the reason for its absence, or ""}}``; the empty string is a
        gap without an explanation.
    """
    return {
        name: {
            fact: "yes" if getattr(entry, fact) is not None else entry.missing.get(fact, "")
            for fact in FACTS
        }
        for name, entry in PRIMITIVES.items()
        if entry.slopes is not None
    }
