"""Refusal of maps that send several points to one."""

from funcdl.density._inverses import is_folding


class NotInjective(ValueError):
    """A map of which the structure shows that several points have the same image."""


def require_injective(analysis, plan, segment, route) -> None:
    """Refuse a segment that cannot be solved for its inputs.

    Raises:
        NotInjective: Names the operation, with file and line.
    """
    for step in segment.steps:
        operands = [o for o in step.slots if o in analysis.program.dynamic and o.is_float]
        for o in operands:
            known = route.known.get(o)
            if (known is None or not known.all()) and is_folding(
                step.name, step.equation.params, analysis.bounds(o)
            ):
                result = route.known.get(step.results[0])
                if result is not None and result.any():
                    raise NotInjective(f"{step.name} at {step.where} is not injective")
    if getattr(plan, "blocks", 1) is None:
        raise NotInjective("structurally singular")
    if not hasattr(plan, "blocks"):
        raise NotInjective(f"{segment.steps[0].name} at {segment.steps[0].where}: no way back")
