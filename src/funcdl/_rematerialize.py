"""Functions cut into segments: gradients keep the values between them and recompute the rest."""

import itertools
from collections.abc import Callable
from functools import partial

import jax
from jax.extend import core as jex

from funcdl import _jaxpr


# A segment is a run of consecutive equations. Its inputs are the variables it reads from before,
# its outputs those that later segments or the result read; only these survive to the backward pass
# (`jax.checkpoint`). The last segment is not recomputed, as its values are needed right away.
# Calls are inlined first, so that a segment can end inside of a jitted function; a scan stays one
# equation, but its steps are recomputed, so that it keeps only its carry.
def in_segments(f: Callable, segments: int) -> Callable:
    """Cut the operations of a function into segments whose results take equal memory.

    Args:
        f: Any traceable function of pytrees.
        segments: The number of segments, or fewer if there are not as many operations.

    Returns:
        A function that computes the same; its gradient recomputes each segment except the last.
    """

    def segmented(*args):
        closed, out = jax.make_jaxpr(_flat(f), return_shape=True)(*args)
        values = dict(zip(closed.jaxpr.constvars, closed.consts))
        values.update(zip(closed.jaxpr.invars, jax.tree.leaves(args)))
        parts = _cut(closed.jaxpr.eqns, segments)
        for i, part in enumerate(parts):
            later = [v for p in parts[i + 1 :] for e in p for v in e.invars]
            inputs, outputs = _interface(part, later + list(closed.jaxpr.outvars))
            run = _as_function(closed.jaxpr, part, inputs, outputs)
            run = run if i == len(parts) - 1 else jax.checkpoint(run)
            values.update(zip(outputs, run(*[values[v] for v in inputs])))
        leaves = [v.val if isinstance(v, jex.Literal) else values[v] for v in closed.jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(out), leaves)

    return segmented


def _flat(f: Callable) -> Callable:
    """Inline the calls of jitted functions, and let loops keep only their carry."""

    def rule(equation, operands, plainly):
        if equation.primitive.name in _jaxpr.CALLS:
            return _jaxpr.interpret(_jaxpr.called(equation), operands, rule)
        if equation.primitive.name == "scan":
            return _loop(equation, operands)
        return plainly(*operands)

    def flat(*args):
        closed, out = jax.make_jaxpr(f, return_shape=True)(*args)
        leaves = _jaxpr.interpret(closed, jax.tree.leaves(args), rule)
        return jax.tree.unflatten(jax.tree.structure(out), leaves)

    return flat


def _loop(equation: jex.JaxprEqn, operands: list) -> list:
    """Evaluate a scan whose steps are recomputed for a gradient."""
    body, consts, carried, options = _jaxpr.scan_parts(equation)
    known, first, sequences = _split(operands, consts, carried)

    @partial(jax.checkpoint, prevent_cse=False)  # nothing is merged across a loop
    def recomputed(known, carry, row):
        return _split(jex.jaxpr_as_fun(body)(*known, *carry, *row), carried)

    step = lambda carry, row: recomputed(known, carry, row)
    carry, rows = jax.lax.scan(step, first, sequences, **options)
    return [*carry, *rows]


def _split(values: list, *counts: int) -> list[list]:
    """Cut a list into parts of these lengths, and the remainder."""
    ends = list(itertools.accumulate(counts, initial=0))
    return [values[a:b] for a, b in zip(ends, [*ends[1:], None])]


def _cut(equations: list, segments: int) -> list[list]:
    """Cut where the running sum of bytes passes the next fraction of the total."""
    sizes = [sum(v.aval.size * v.aval.dtype.itemsize for v in e.outvars) for e in equations]
    total, seen, parts = max(sum(sizes), 1), 0, [[] for _ in range(segments)]
    for equation, size in zip(equations, sizes):
        parts[min(seen * segments // total, segments - 1)].append(equation)
        seen += size
    return [part for part in parts if part]


def _interface(part: list, later: list) -> tuple[list, list]:
    """List the variables that a segment reads from before, and those of its results read later."""
    results = dict.fromkeys(v for e in part for v in e.outvars)
    read = dict.fromkeys(v for e in part for v in e.invars if not isinstance(v, jex.Literal))
    needed = {v for v in later if not isinstance(v, jex.Literal)}
    return [v for v in read if v not in results], [v for v in results if v in needed]


def _as_function(jaxpr: jex.Jaxpr, part: list, inputs: list, outputs: list) -> Callable:
    effects = {effect for e in part for effect in e.effects}
    alone = jex.Jaxpr([], inputs, outputs, part, effects, jaxpr.debug_info)
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, []))
