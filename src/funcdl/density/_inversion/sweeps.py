"""Triangular maps, inverted by sweeps: each one makes one more level of numbers exact.

In an autoregressive layer, the inverse of the elementwise map needs parameters that a network
computes from the numbers before. A sweep computes them from the current guess of x, and inverts the
map for all numbers at once. The first numbers need no parameters and are exact after one sweep,
those that need only these after two, and so on (Song et al., 2021).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array, csgraph

from funcdl._typing import Array
from funcdl.density._inversion.implicit import implicit
from funcdl.density._inversion.propagation import Setting, backward
from funcdl.density._jacobian.parts import Plan, joined, replay, split
from funcdl.density._primitives.local_jacobian import Everything, take
from funcdl.density._program.program import Equation, Variable

# Invariant: after t sweeps, the numbers of x below level t are exact. The height of a number is 1 +
# the highest level that it is computed from, so numbers of height t or less are exact too. A number
# that is found backward from the outputs needs as many sweeps as the highest of the numbers that
# its inversion reads forward; x has to need no more than its level, or the next sweep could not
# make it exact. Where that holds, the pre-image is unique too: each number follows from exact ones.
# The textbook's way, number by number, is a loop of n passes over slices; this one runs whole
# arrays, stops as soon as nothing changes, and takes one pass where nothing depends on anything.

_NEVER = np.iinfo(np.int32).max


class Inversion(NamedTuple):
    """One step backward of a sweep.

    Attributes:
        equation: The equation whose results are known.
        operand: The operand that is found.
        new: The positions of the numbers that are found.
        compute: ``(values, new) -> ([array], reached)``.
    """

    equation: Equation
    operand: Variable
    new: np.ndarray
    compute: Callable


class Sweep(NamedTuple):
    """The steps backward of one sweep, and how many sweeps make all numbers exact."""

    steps: list[Inversion]
    count: int


def sweep(setting: Setting, plan: Plan, level: np.ndarray) -> Sweep | None:
    """Plan a sweep, if sweeps invert a segment.

    Args:
        setting: The segment and its analysis.
        plan: The plan of the segment.
        level: The level of each number of the inputs; see ``order``.

    Returns:
        The sweep; None if some number would need itself.
    """
    segment = setting.segment
    is_triangular = plan.blocks is not None and all(len(r) == 1 for r, _ in plan.blocks)
    if plan.separate or not is_triangular:
        return None
    bounds = np.cumsum([s.size for s in segment.inputs])[:-1]
    levels = dict(zip(segment.inputs, np.split(level, bounds)))
    heights = _heights(setting, levels)
    need = {s: np.zeros(s.size, int) for s in segment.outputs if isinstance(s, Variable)}
    steps = []
    for equation in reversed(segment.equations):
        steps += _inversions(equation, setting, heights, need)
    needed = [need.get(s, np.full(s.size, _NEVER)) for s in segment.inputs]
    if any((n > levels[s]).any() for s, n in zip(segment.inputs, needed)):
        return None
    return Sweep(steps, int(level.max(initial=0)) + 1)


def _heights(setting: Setting, levels: dict) -> dict:
    """Return for each number 1 + the highest level that it is computed from; 0 for constants."""
    heights = {s: 1 + level for s, level in levels.items()}
    for equation in setting.segment.equations:
        for result, edges in zip(equation.results, setting.value_reads_of(equation)):
            height = np.zeros(result.size, int)
            for place, read in edges.items():
                of = heights.get(equation.operands[place])
                if of is not None and isinstance(read, Everything):
                    height = np.maximum(height, of.max(initial=0))
                elif of is not None:
                    np.maximum.at(height, read.rows, of[read.cols])
            heights[result] = height
    return heights


def _inversions(equation: Equation, setting: Setting, heights: dict, need: dict) -> list[Inversion]:
    """Invert an equation for each operand that depends on x; note the sweeps that this needs."""
    found = []
    if not any(s in need for s in equation.results):
        return found
    for place, operand in enumerate(equation.operands):
        if not isinstance(operand, Variable) or operand not in heights:
            continue
        # the other operands are read forward, from the guess
        guessed = {o: np.ones(o.shape, bool) for o in equation.operands if isinstance(o, Variable)}
        given = {s: (need[s] < _NEVER).reshape(s.shape) for s in equation.results if s in need}
        known = guessed | {operand: np.zeros(operand.shape, bool)} | given
        needed = _needed(equation, place, setting, (heights, need))
        before = need.get(operand, np.full(operand.size, _NEVER))
        for variables, masks, compute in backward(equation, setting, known):
            if len(variables) == 1:
                new = masks[0].ravel() & (needed < before)
                found += [Inversion(equation, operand, np.flatnonzero(new), compute)]
                before = np.where(new, needed, before)
        if (before < _NEVER).any():
            need[operand] = before
    return [step for step in found if len(step.new)]


def _needed(equation: Equation, place: int, setting: Setting, costs: tuple) -> np.ndarray:
    """Return the sweeps that each number of an operand needs if it is found from the results.

    It is found from all results that a chain of readings connects it with.
    """
    (heights, need), size = costs, equation.operands[place].size
    rows, cols, cost, count = [], [], [], 0
    for result, edges in zip(equation.results, setting.value_reads_of(equation)):
        own = need.get(result, np.full(result.size, _NEVER)).copy()
        for at, read in edges.items():
            of = heights.get(equation.operands[at])
            if at == place or of is None:
                continue
            if isinstance(read, Everything):
                own = np.maximum(own, of.max(initial=0))
            else:
                np.maximum.at(own, read.rows, of[read.cols])
        read = edges.get(place)
        if isinstance(read, Everything):
            return np.full(size, own.max(initial=0))
        if read is not None:
            rows.append(count + read.rows)
            cols.append(read.cols)
        cost.append(own)
        count += result.size
    if not rows:
        return np.full(size, _NEVER)
    r, c, cost = np.concatenate(rows), np.concatenate(cols), np.concatenate(cost)
    graph = coo_array((np.ones(len(r)), (r, count + c)), shape=(count + size, count + size))
    _, label = csgraph.connected_components(graph, directed=False)
    highest = np.zeros(label.max() + 1, int)
    np.maximum.at(highest, label[r], cost[r])
    is_read = np.isin(np.arange(size), c)
    return np.where(is_read, highest[label[count:]], _NEVER)


def root(
    plan: Plan, origin: dict, y: Array, outside: dict, given: tuple[Sweep, Array, Callable]
) -> tuple[Array, Array]:
    """Find the inputs of one segment that give its outputs.

    Args:
        plan: The plan of the segment.
        origin: The equation that computes each variable.
        y: The outputs of the segment, of shape ``(n,)``.
        outside: The values of the variables that the segment reads from elsewhere.
        given: The sweep, the inputs as far as they are known, of shape ``(n,)``, and ``allowed`` as
            in ``propagation.follow``.

    Returns:
        The inputs, of shape ``(n,)``, and whether all numbers that were inverted have a pre-image.
        The derivatives are those of the implicit function.
    """
    planned, known, allowed = given

    def find(y, outside, known):
        def again(state):
            x, _, _, count = state
            # numbers that are not finite would reach exact numbers through a product with 0
            guess = jnp.where(jnp.isfinite(x), x, 0)
            after, reached = _swept(plan, planned, (guess, y), outside, allowed)
            return after, reached, (after == x).all(), count + 1

        def is_running(state):
            _, _, is_settled, count = state
            return ~is_settled & (count < planned.count)

        none = jnp.asarray(True), jnp.asarray(False), jnp.zeros((), int)
        x, reached, *_ = jax.lax.while_loop(is_running, again, (known, *none))
        return x, reached

    return implicit(plan, origin, find, y, outside, known)


def _swept(
    plan: Plan, planned: Sweep, point: tuple, outside: dict, allowed: Callable
) -> tuple[Array, Array]:
    """Find x from y, with the parameters at a guess of x."""
    (guess, y), segment = point, plan.segment
    forward = outside | replay(segment, outside, split(guess, segment.inputs))
    back, all_reached = split(y, segment.outputs), jnp.asarray(True)
    for step in planned.steps:
        operand = step.operand
        values = forward | {s: back[s] for s in step.equation.results if s in back}
        (x,), reached = step.compute(values, step.new)
        all_reached &= reached
        x = jnp.ravel(x).astype(operand.dtype)
        if len(step.new) < operand.size:
            x = take(x, step.new) if x.size == operand.size else x
            so_far = jnp.ravel(back.get(operand, forward[operand]))
            x = so_far.at[step.new].set(x, unique_indices=True)
        back[operand], reached = allowed(operand, x.reshape(operand.shape))
        all_reached &= reached
    return joined(back, segment.inputs), all_reached
