"""Walks over jaxprs, written so that they work on every supported version of jax.

Only this file and ``_rematerialize`` read the equations of a jaxpr as data.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax.extend.core as jex

# a jex.JaxprEqn, whose stub types `v.aval` as a class without shape and dtype
Equation = Any

# two classes up to jax 0.10, one from 0.11 on: never branch on which of them it is
JAXPRS = (jex.Jaxpr, jex.ClosedJaxpr)

# primitives that only evaluate the jaxpr inside; custom derivatives do more than that
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
CALLS_WITH_RULES = (*CALLS, "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def subjaxprs(equation: jex.JaxprEqn) -> Iterator[Any]:
    """Yield the jaxprs inside one equation: bodies of loops, branches, calls.

    They are found by value, since the names of the parameters change from release to release.

    Args:
        equation: Any equation.

    Yields:
        Open jaxprs.
    """
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, JAXPRS):
                yield getattr(item, "jaxpr", item)


def equations(jaxpr: jex.Jaxpr | jex.ClosedJaxpr) -> Iterator[jex.JaxprEqn]:
    """Yield all equations of a jaxpr, including those of inner jaxprs.

    Args:
        jaxpr: The result of ``jax.make_jaxpr``, or the jaxpr inside it.

    Yields:
        Each equation, before the equations inside it.

    >>> import jax
    >>> inner = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: jax.numpy.sin(x), x))
    >>> [e.primitive.name for e in equations(inner(1.0)) if e.primitive.name == "sin"]
    ['sin']
    """
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield from each(equation)


def each(equation: jex.JaxprEqn) -> Iterator[jex.JaxprEqn]:
    """Yield an equation and all equations inside it.

    Args:
        equation: Any equation.

    Yields:
        The equation itself first.
    """
    yield equation
    for inner in subjaxprs(equation):
        yield from equations(inner)


def inputs_read(jaxpr: jex.Jaxpr | jex.ClosedJaxpr) -> list[bool]:
    """Determine for each input whether an output, or an effect, needs it.

    Args:
        jaxpr: The result of ``jax.make_jaxpr``, or the jaxpr inside it.

    Returns:
        One bool per input.
    """
    open_jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    needed = {v for v in open_jaxpr.outvars if not isinstance(v, jex.Literal)}
    for e in reversed(open_jaxpr.eqns):
        if e.effects or needed.intersection(e.outvars):
            needed.update(v for v in e.invars if not isinstance(v, jex.Literal))
    return [v in needed for v in open_jaxpr.invars]


def interpret(
    jaxpr: jex.Jaxpr | jex.ClosedJaxpr, args: list, rule: Callable, consts: list | None = None
) -> list:
    """Evaluate a jaxpr, with each equation evaluated by a rule.

    Args:
        jaxpr: An open or closed jaxpr.
        args: One value per input, of any type that the rule handles.
        rule: ``rule(equation, operands, plainly) -> results``, where ``plainly(*operands)``
            evaluates the equation unchanged, including custom derivatives.
        consts: One value per constant, in place of the constants of the jaxpr.

    Returns:
        One value per output.

    >>> import jax
    >>> closed = jax.make_jaxpr(lambda x: jax.numpy.sin(x) * x)(1.0)
    >>> doubled = lambda equation, operands, plainly: [2 * y for y in plainly(*operands)]
    >>> interpret(closed, [jax.numpy.pi / 2], doubled)[0].round(3).item()
    6.283
    """
    open_jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    own = getattr(jaxpr, "consts", ()) if consts is None else consts
    known = dict(zip(open_jaxpr.constvars, own))
    known.update(zip(open_jaxpr.invars, args))

    def read(v):
        return v.val if isinstance(v, jex.Literal) else known[v]

    for equation in open_jaxpr.eqns:
        plainly = partial(_evaluate, equation, open_jaxpr.debug_info)
        results = rule(equation, [read(v) for v in equation.invars], plainly)
        known.update(zip(equation.outvars, results))
    return [read(v) for v in open_jaxpr.outvars]


def _evaluate(equation: jex.JaxprEqn, debug_info: Any, *operands: Any) -> list:
    """Evaluate one equation as a jaxpr by itself, since ``bind`` rejects custom derivatives."""
    fresh = [v if isinstance(v, jex.Literal) else jex.Var(v.aval) for v in equation.invars]
    outs = [jex.Var(v.aval) for v in equation.outvars]
    free = [v for v in fresh if not isinstance(v, jex.Literal)]
    alone = equation.replace(invars=fresh, outvars=outs)
    jaxpr = jex.Jaxpr([], free, outs, [alone], equation.effects, debug_info)
    inputs = [x for x, v in zip(operands, fresh) if not isinstance(v, jex.Literal)]
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, []))(*inputs)


def called(equation: jex.JaxprEqn) -> jex.Jaxpr | jex.ClosedJaxpr:
    """Return the jaxpr that a call or a loop evaluates, with its constants.

    Args:
        equation: An equation whose primitive has one jaxpr.

    Returns:
        The open or closed jaxpr.
    """
    return next(v for v in equation.params.values() if isinstance(v, JAXPRS))


class Scan(NamedTuple):
    """The parts of a ``scan``.

    Attributes:
        body: The jaxpr of one step; it takes constants, carry and one slice of each sequence.
        consts: The number of operands that are constants.
        carry: The number of operands after them that are carried.
        options: ``length``, ``reverse`` and ``unroll`` of ``jax.lax.scan``.
    """

    body: Any
    consts: int
    carry: int
    options: dict


def scan_parts(equation: jex.JaxprEqn) -> Scan:
    """Split a scan into its parts.

    Args:
        equation: An equation of the primitive ``scan``.

    Returns:
        The body and the counts, which are read from ranks: the names of the parameters change
        from release to release.
    """
    body = called(equation)
    inside = getattr(body, "jaxpr", body)

    def sequences(outer, inner) -> int:
        return sum(len(o.aval.shape) == len(i.aval.shape) + 1 for o, i in zip(outer, inner))

    carry = len(equation.outvars) - sequences(equation.outvars, inside.outvars)
    consts = len(equation.invars) - carry - sequences(equation.invars, inside.invars)
    options = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
    return Scan(body, consts, carry, options)


class While(NamedTuple):
    """The parts of a ``while``.

    Attributes:
        test: The jaxpr of the condition; it takes its constants and the carry.
        body: The jaxpr of one step; it takes its constants and the carry.
        test_consts: The number of operands that are constants of the condition.
        consts: The number of operands after them that are constants of the body.
    """

    test: Any
    body: Any
    test_consts: int
    consts: int


def while_parts(equation: jex.JaxprEqn) -> While:
    """Split a while loop into its parts.

    Args:
        equation: An equation of the primitive ``while``.

    Returns:
        The condition, the body and the counts.
    """
    params = equation.params
    return While(
        test=params["cond_jaxpr"],
        body=params["body_jaxpr"],
        test_consts=params["cond_nconsts"],
        consts=params["body_nconsts"],
    )
