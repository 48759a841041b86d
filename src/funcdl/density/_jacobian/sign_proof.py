r"""Proof by interval arithmetic that the diagonal entries of a Jacobian keep their signs.

:math:`x + \tfrac12\tanh x` has a derivative in :math:`(1, 1.5]`. A bound of 0 is attained at single
points only; where a derivative may vanish on an interval, the bound is just below 0.
"""

from collections.abc import Callable

from funcdl.density._jacobian.entries import Paths, Term
from funcdl.density._primitives.interval import BELOW_ZERO, ONE, UNBOUNDED, Interval, plus, times
from funcdl.density._primitives.local_jacobian import unit
from funcdl.density._primitives.table import record


def keeps_sign(plan: Paths, bounds: Callable) -> bool:
    """Tell whether each entry of a plan is proved positive everywhere, or negative everywhere.

    Args:
        plan: The plan of the diagonal entries.
        bounds: ``operand -> (low, high)``.

    Returns:
        False if no proof was found.
    """
    signs = _entries(plan, bounds)
    return all(low >= 0 or high <= 0 for low, high in signs) and (0.0, 0.0) not in signs


def excludes_zero(plan: Paths, bounds: Callable) -> bool:
    """Tell whether each entry of a plan is proved to be 0 nowhere, not even at a single point.

    Args:
        plan: The plan of the diagonal entries.
        bounds: ``operand -> (low, high)``.

    Returns:
        False if no proof was found.
    """
    return all(low > 0 or high < 0 for low, high in _entries(plan, bounds))


def _entries(plan: Paths, bounds: Callable) -> list[Interval]:
    """Bound the entries of a plan, one interval for each output variable."""
    interval_of: dict = dict.fromkeys(plan.inputs, ONE)
    for variable, _, terms in plan.terms:
        parts = [times(interval_of[t.equation.operands[t.at]], _slope(t, bounds)) for t in terms]
        if not parts:
            interval_of[variable] = (BELOW_ZERO, 0.0)
        elif record(terms[0].equation.name).choice:
            interval_of[variable] = min(a for a, _ in parts), max(b for _, b in parts)
        else:
            total = parts[0]
            for part in parts[1:]:
                total = plus(total, part)
            interval_of[variable] = total
    return [interval_of[variable] for variable, _ in plan.outputs]


def _slope(term: Term, bounds: Callable) -> Interval:
    """Bound the derivative of an equation with respect to one operand."""
    equation, rule = term.equation, record(term.equation.name).slope_bounds
    if rule is None:
        return ONE if term.slope is unit else UNBOUNDED
    operands = [bounds(o) for o in equation.operands]
    return rule(term.at, operands, bounds(equation.results[0]), equation.eqn.params)
