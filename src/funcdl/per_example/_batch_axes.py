"""The axes of the operands of one operation that hold the examples of a batch."""

import math

from funcdl._jaxpr import Equation

Axes = list[frozenset[int]]  # per operand or result, its axes that hold examples

# operations that can take a part of an axis, or extend it
CUTS = "slice", "dynamic_slice", "dynamic_update_slice", "pad"


def lead(equation: Equation, lead: int, before: int, after: int, size: int) -> int:
    """Follow the examples through a reshape.

    Args:
        equation: A reshape.
        lead: How often the examples are repeated along their axis, which is the flattened
            ``(lead, size, rest)``.
        before: The axis of the operand.
        after: The axis of the result.
        size: The number of examples.

    Returns:
        The same number for the result; 0 if none of its axes holds all examples.
    """
    shapes = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    outer, rest = divmod(lead * math.prod(shapes[0][:before]), math.prod(shapes[1][:after]))
    return outer if not rest and outer and shapes[1][after] % (outer * size) == 0 else 0


def along(equation: Equation) -> frozenset[int]:
    """Return the axes along which an operation works."""
    p, ndim = equation.params, equation.invars[0].aval.ndim
    if equation.primitive.name == "fft":
        return frozenset(range(ndim - len(p["fft_lengths"]), ndim))
    if equation.primitive.name == "top_k":
        return frozenset({ndim - 1})
    axes = p.get("axis", p.get("dimension", p.get("dimensions", ())))
    return frozenset(axes if isinstance(axes, tuple) else (axes,))


def keeps_rows(params: dict, ins: Axes, outs: Axes) -> bool:
    """Check that the examples of a convolution are its images, and nothing else."""
    n = params["dimension_numbers"]
    return ins[0] <= {n.lhs_spec[0]} and not ins[1] and outs[0] <= {n.out_spec[0]}


def is_whole(equation: Equation, ins: Axes, outs: Axes) -> bool:
    """Check that a cut takes all examples."""
    arrays = 2 if equation.primitive.name == "dynamic_update_slice" else 1
    forms = [*equation.invars[:arrays], *equation.outvars]
    axes = [*ins[:arrays], *outs]
    sizes = {tuple(v.aval.shape[i] for i in each) for v, each in zip(forms, axes)}
    return len(sizes) == 1


def looks_up(equation: Equation) -> frozenset[int]:
    """Return the axes of the operand in which a gather or a scatter looks up its indices."""
    n = equation.params["dimension_numbers"]
    names = "start_index_map", "scatter_dims_to_operand_dims"
    return frozenset(map(int, next(getattr(n, name) for name in names if hasattr(n, name))))


def is_looked_up(equation: Equation, ins: Axes) -> bool:
    """Check that positions of examples are used to look up exactly these examples."""
    table, indices = (
        [v.aval.shape[i] for i in axes] for v, axes in zip(equation.invars[:2], ins[:2])
    )
    return ins[0] <= looks_up(equation) and table == indices != []


def keeps_positions(equation: Equation, twin: Equation, known: list[bool]) -> bool:
    """Check that positions of examples remain valid positions for a look-up."""
    name = equation.primitive.name
    if name == "reshape":
        shapes = [[v.aval.shape for v in (*e.invars[:1], *e.outvars)] for e in (equation, twin)]
        held = [[s for s, t in zip(*pair) if s != t] for pair in zip(*shapes)]
        return held[0] == held[1]
    if name == "lt":
        return known[0] and bool(getattr(equation.invars[1], "val", None) == 0)
    if name == "select_n":
        return all(known)
    if name == "add":  # the size of the axis, added to negative positions
        shapes = [v.aval.shape for e in (equation, twin) for v in e.outvars]
        held = [(s, t) for s, t in zip(*shapes) if s != t]
        added = [getattr(e.invars[1], "val", None) for e in (equation, twin)]
        return known[0] and bool(held == [tuple(added)])
    return True
