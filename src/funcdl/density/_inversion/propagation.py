"""Inversion by propagation: known values travel backward and forward through a segment.

A schedule is made once while tracing, on Boolean arrays that tell which numbers are known; the
values follow it. A coupling layer is thus inverted without solving anything: its first half passes
unchanged, its network runs forward, and its second half is recovered through the inverse of ``mul``
or ``add``.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from funcdl.density._primitives.interval import UNBOUNDED
from funcdl.density._primitives.local_jacobian import Everything, LocalJacobian, take, unit
from funcdl.density._primitives.slope import Numbers
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._primitives.table import inverse_of, is_elementwise, is_move, record
from funcdl.density._program.program import Equation, Operand, Segment, Variable

Steps = Iterator[tuple[list, list, Callable]]  # variables, masks of the new numbers, compute

# Invariant: ``known[v]`` marks the numbers of v that can be computed from the outputs of the
# segment and from variables that do not depend on x. Masks only grow, and each move computes
# exactly the numbers that it marks from numbers marked before, so values follow moves in order.
# Masks are kept per number, not per variable or slice: in a coupling by ``where(mask, ...)`` half
# of the numbers of one array are known, and only such a mask can invert it.
# Only values travel backward. The log-determinant of the inverse is the negative of the forward
# one at the x that was found, so both directions compute it by the same code.
# An equation is evaluated as soon as some of its results follow from known numbers. A placeholder
# stands for the unknown numbers, and the results that read it are not used.
# Propagation is exact and needs no iteration; only x as in x + tanh(x) is left to Newton steps.

# passes backward and forward; a triangular map would need one per number, so Newton is cheaper
_ROUNDS = 4


class Setting(NamedTuple):
    """The inputs of a schedule.

    Attributes:
        segment: The segment.
        dynamic: The variables that depend on x.
        reads_of: ``equation -> reads``, the local Jacobians of its results.
        value_reads_of: ``equation -> reads``, the numbers that the results are computed from.
        bounds: ``operand -> (low, high)``.
        static: The static values of the program.
        nested: ``(equation, mapped, images) -> NestedEquation | None``; see
            ``dispatch.nested_equation``.
    """

    segment: Segment
    dynamic: set
    reads_of: Callable
    value_reads_of: Callable
    bounds: Callable
    static: StaticValues
    nested: Callable


def value_of(values: dict, operand: Operand) -> Numbers:
    """Return the value of an operand, or a placeholder where few functions are singular."""
    if not isinstance(operand, Variable):
        return operand
    return values[operand] if operand in values else jnp.full(operand.shape, 0.5, operand.dtype)


def is_known(operand: Operand, setting: Setting, known: dict) -> np.ndarray:
    """Return a mask of the numbers of an operand that are known."""
    if not isinstance(operand, Variable):
        return np.ones(np.shape(operand), bool)
    if operand not in setting.dynamic:
        return np.ones(operand.shape, bool)
    return known.get(operand, np.zeros(operand.shape, bool))


class Move(NamedTuple):
    """One action of a schedule.

    Attributes:
        variables: The variables of which some numbers become known.
        new: The positions of these numbers, for each variable.
        compute: ``(values, *new) -> (one array per variable, reached)``, the new numbers and
            whether they exist.
    """

    variables: list[Variable]
    new: list[np.ndarray]
    compute: Callable


class Schedule(NamedTuple):
    """The moves that invert a segment, and the numbers that they leave unknown.

    Attributes:
        moves: The moves, in order.
        unknown: A mask of the numbers that stay unknown, for each input of the segment.
        known: A mask of the numbers that are known, for each variable.
    """

    moves: list[Move]
    unknown: dict
    known: dict

    @property
    def is_short(self) -> bool:
        """Whether some numbers of the inputs stay unknown."""
        return any(mask.any() for mask in self.unknown.values())


def schedule(setting: Setting) -> Schedule:
    """Plan the inversion of a segment whose outputs are known.

    Args:
        setting: The segment and its analysis.

    Returns:
        The schedule.
    """
    segment = setting.segment
    known: dict[Variable, np.ndarray] = {s: np.ones(s.shape, bool) for s in segment.outputs}
    moves: list[Move] = []

    def done() -> bool:
        return all(s in known and known[s].all() for s in segment.inputs)

    def learn(steps) -> None:
        for variables, masks, compute in steps:
            before = [known.get(s, np.zeros(s.shape, bool)) for s in variables]
            new = [np.flatnonzero(m.reshape(b.shape) & ~b) for m, b in zip(masks, before)]
            if any(map(len, new)):
                moves.append(Move(variables, new, compute))
                known.update(
                    (s, np.asarray(b | m.reshape(b.shape)))
                    for s, m, b in zip(variables, masks, before)
                )

    for _ in range(_ROUNDS):
        count = len(moves)
        for equation in reversed(segment.equations):
            learn(backward(equation, setting, known))
        if done():
            break
        for equation in segment.equations:
            learn(_forward(equation, setting, known))
        if len(moves) == count:
            break
    unknown = {s: np.asarray(~known.get(s, np.zeros(s.shape, bool))) for s in segment.inputs}
    return Schedule(moves, unknown, known)


def follow(plan: Schedule, values: dict, allowed: Callable = lambda _v, x: (x, True)) -> tuple:
    """Carry out a schedule.

    Args:
        plan: The schedule.
        values: The values of the known variables and of all variables that do not depend on x.
        allowed: ``(variable, value) -> (value, reached)``, whether the variable takes the value.

    Returns:
        The values of all variables, and whether every number that was inverted has a pre-image.
    """
    values = dict(values)
    all_reached = jnp.asarray(True)
    for move in plan.moves:
        arrays, reached = move.compute(values, *move.new)
        all_reached &= reached
        for variable, new, x in zip(move.variables, move.new, arrays):
            x = jnp.ravel(x).astype(variable.dtype)
            if len(new) < variable.size:
                x = jnp.ravel(value_of(values, variable)).at[new].set(x, unique_indices=True)
            values[variable], reached = allowed(variable, x.reshape(variable.shape))
            all_reached &= reached
    return values, all_reached


def within(bounds: Callable, is_replaced: bool) -> Callable:
    """Return a test of values against bounds that hold at every point.

    Args:
        bounds: ``operand -> (low, high)``.
        is_replaced: Whether a number out of bounds is replaced by one within, so that all
            later values are finite and have no gradient.

    Returns:
        A function ``allowed(variable, value) -> (value, reached)``.
    """

    def allowed(variable, x):
        low, high = bounds(variable)
        if not variable.is_real or (low, high) == UNBOUNDED:
            return x, True
        is_outside = (x < low) | (x > high)  # a NaN is not outside, but unknown
        if is_replaced:
            below, above = (
                (low if low > -np.inf else high - 2),
                (high if high < np.inf else low + 2),
            )
            x = jnp.where(is_outside, below / 2 + above / 2, x)
        return x, ~is_outside.any()

    return allowed


def _forward(equation: Equation, setting: Setting, known: dict) -> Steps:
    """Yield the numbers of the results that follow from known numbers of the operands."""
    masks = [is_known(o, setting, known) for o in equation.operands]
    read_of_results = setting.value_reads_of(equation)
    for at, (variable, edges) in enumerate(zip(equation.results, read_of_results)):
        if variable in known and known[variable].all():
            continue
        new = np.ones(variable.size, bool)
        for place, read in edges.items():
            mask = masks[place]
            if isinstance(read, Everything):
                new &= mask.all()
            else:
                new[read.rows[~mask.ravel()[read.cols]]] = False
        if new.any():

            def compute(values, new, at=at):
                result = equation.evaluate(*(value_of(values, o) for o in equation.operands))[at]
                return [take(jnp.ravel(result), new)], True

            yield [variable], [new], compute


def backward(equation: Equation, setting: Setting, known: dict) -> Steps:
    """Yield the numbers of the operands that follow from known numbers of the results."""
    if not any(s in known and known[s].any() for s in equation.results):
        return
    unknown = [
        at
        for at, o in enumerate(equation.operands)
        if isinstance(o, Variable)
        and o in setting.dynamic
        and not is_known(o, setting, known).all()
    ]
    if not unknown:
        return
    if is_move(equation.name) and not (
        equation.name == "select_n" and setting.static.value(equation.operands[0]) is None
    ):
        yield from _moved_back(equation, unknown, setting, known)
    elif is_elementwise(equation.name):
        yield from _elementwise(equation, unknown, setting, known)
    else:
        yield from _whole_operands(equation, unknown, setting, known)


def _moved_back(equation: Equation, unknown: list, setting: Setting, known: dict) -> Steps:
    """Yield the numbers of an operand from the positions to which the equation moved them."""
    for variable, edges in zip(equation.results, setting.reads_of(equation)):
        if variable not in known:
            continue
        for at in unknown:
            read = edges.get(at)
            if read is None or isinstance(read, Everything) or read.slope is not unit:
                continue
            is_shown = known[variable].ravel()[read.rows]
            source = np.full(equation.operands[at].size, -1)
            source[read.cols[is_shown]] = read.rows[is_shown]
            if (source >= 0).any():

                def compute(values, new, variable=variable, source=source):
                    return [take(jnp.ravel(values[variable]), source[new])], True

                yield [equation.operands[at]], [source >= 0], compute


def _elementwise(equation: Equation, unknown: list, setting: Setting, known: dict) -> Steps:
    """Yield one operand from the result and the other operands."""
    variable = equation.results[0]
    if variable not in known:
        return
    for at in unknown:
        operand = equation.operands[at]
        others = [i for i in range(len(equation.operands)) if i != at]
        if operand.size != variable.size or any(equation.operands[i] is operand for i in others):
            continue
        inverse = inverse_of(equation.name, equation.eqn.params, at, setting.bounds(operand))
        if inverse is None:
            continue
        new = known[variable].ravel().copy()
        edges = setting.reads_of(equation)[0].get(at)
        if isinstance(edges, LocalJacobian):  # a number that is multiplied by 0 is not shown
            new &= np.isin(np.arange(variable.size), edges.rows)
        for i in others:
            new &= np.broadcast_to(
                is_known(equation.operands[i], setting, known), variable.shape
            ).ravel()
        if not new.any():
            continue

        def compute(values, new, inverse=inverse, others=others):
            known_operands = [
                jnp.broadcast_to(value_of(values, equation.operands[i]), variable.shape)
                for i in others
            ]
            known_operands = [take(jnp.ravel(x), new) for x in known_operands]
            y = take(jnp.ravel(values[variable]), new)
            low, high = inverse.image
            in_image = ~jnp.any((y <= low) | (y >= high)) if inverse.image != UNBOUNDED else True
            return [inverse.function(equation.eqn.params, y, *known_operands)], in_image

        yield [operand], [new], compute


def _whole_operands(equation: Equation, unknown: list, setting: Setting, known: dict) -> Steps:
    """Yield all unknown operands at once, if the results are completely known."""
    if any(s in known and not known[s].all() for s in equation.results):
        return
    if any(is_known(equation.operands[at], setting, known).any() for at in unknown):
        return
    if len(unknown) == 1 and len(equation.results) == 1:
        inverse = _linear_inverse(equation, unknown[0], setting)
        if inverse is not None:

            def solve(values, _new):
                operands = [value_of(values, o) for o in equation.operands]
                return [inverse(values[equation.results[0]], operands)], True

            operand = equation.operands[unknown[0]]
            yield [operand], [np.ones(operand.shape, bool)], solve
            return
    images = [at for at, s in enumerate(equation.results) if s in known]
    nested = setting.nested(equation, unknown, images)
    if nested is None or nested.invert is None:
        return

    def compute(values, *_new):
        operands = [
            None if i in unknown else value_of(values, o) for i, o in enumerate(equation.operands)
        ]
        return nested.invert(operands, {k: values[equation.results[k]] for k in images})

    variables = [equation.operands[at] for at in unknown]
    yield variables, [np.ones(s.shape, bool) for s in variables], compute


def _linear_inverse(equation: Equation, place: int, setting: Setting) -> Callable | None:
    """Return the inverse of a linear operation that keeps the number of numbers, if known."""
    solve = record(equation.name).solve
    square = equation.operands[place].size == equation.results[0].size
    return solve(equation, place, setting.static) if solve and square else None
