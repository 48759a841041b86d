"""The only file that walks jaxprs, in formulations that hold on every supported jax."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax.extend.core as jex

# two classes up to jax 0.10, one from 0.11 on: never branch on which of them it is
JAXPRS = (jex.Jaxpr, jex.ClosedJaxpr)

# what only evaluates the jaxpr inside; custom derivatives are none of them
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")


def subjaxprs(equation: jex.JaxprEqn) -> Iterator[jex.Jaxpr]:
    """Yield the jaxprs inside one equation: bodies of loops, branches, calls.

    They are found by value: the names of the parameters change from release to release.

    Args:
        equation: Of a jaxpr.

    Yields:
        Open jaxprs.
    """
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, JAXPRS):
                yield getattr(item, "jaxpr", item)


def equations(jaxpr: jex.Jaxpr | jex.ClosedJaxpr) -> Iterator[jex.JaxprEqn]:
    """Yield all equations of a jaxpr, those of inner jaxprs included.

    Args:
        jaxpr: From ``jax.make_jaxpr``.

    Yields:
        Each equation before those inside it.

    >>> import jax
    >>> inner = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: jax.numpy.sin(x), x))
    >>> [e.primitive.name for e in equations(inner(1.0)) if e.primitive.name == "sin"]
    ['sin']
    """
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield from each(equation)


def each(equation: jex.JaxprEqn) -> Iterator[jex.JaxprEqn]:
    """Yield an equation and all those inside it.

    Args:
        equation: Of a jaxpr.

    Yields:
        The equation first.
    """
    yield equation
    for inner in subjaxprs(equation):
        yield from equations(inner)


def inputs_read(jaxpr: jex.Jaxpr | jex.ClosedJaxpr) -> list[bool]:
    """Tell of each input whether an output, or an effect, needs it.

    Args:
        jaxpr: From ``jax.make_jaxpr``.

    Returns:
        One answer an input.
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
    """Evaluate a jaxpr, but each equation as a rule says.

    Args:
        jaxpr: Open or closed.
        args: One value an input; of any kind that the rule knows.
        rule: ``rule(equation, operands, plainly) -> results``, where ``plainly(*operands)``
            evaluates the equation as it stands, custom derivatives included.
        consts: One value a constant, in place of the jaxpr's own.

    Returns:
        One value an output.

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


def _evaluate(equation: jex.JaxprEqn, debug_info, *operands) -> list:
    """Evaluate one equation as a jaxpr of its own: ``bind`` refuses custom derivatives."""
    fresh = [v if isinstance(v, jex.Literal) else jex.Var(v.aval) for v in equation.invars]
    outs = [jex.Var(v.aval) for v in equation.outvars]
    free = [v for v in fresh if not isinstance(v, jex.Literal)]
    alone = equation.replace(invars=fresh, outvars=outs)
    jaxpr = jex.Jaxpr([], free, outs, [alone], equation.effects, debug_info)
    given = [x for x, v in zip(operands, fresh) if not isinstance(v, jex.Literal)]
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, []))(*given)


def called(equation: jex.JaxprEqn) -> jex.Jaxpr | jex.ClosedJaxpr:
    """Return the jaxpr that a call or a loop evaluates, with its constants.

    Args:
        equation: Of a primitive with one jaxpr.

    Returns:
        Open or closed.
    """
    return next(v for v in equation.params.values() if isinstance(v, JAXPRS))


class Scan(NamedTuple):
    """The parts of a ``scan``.

    Attributes:
        body: Its jaxpr: constants, carry and one slice of each sequence.
        consts: How many of the operands are constants.
        carry: How many after them are carried.
        options: ``length``, ``reverse`` and ``unroll`` of ``jax.lax.scan``.
    """

    body: jex.ClosedJaxpr
    consts: int
    carry: int
    options: dict


def scan_parts(equation: jex.JaxprEqn) -> Scan:
    """Take a scan apart.

    Args:
        equation: Of the primitive ``scan``.

    Returns:
        Body and counts, read from the ranks: their names change from release to release.
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
        test: The jaxpr that decides, of its constants and the carry.
        body: The jaxpr of a step, of its constants and the carry.
        test_consts: How many operands are constants of the test.
        consts: How many operands after them are constants of the body.
    """

    test: jex.ClosedJaxpr
    body: jex.ClosedJaxpr
    test_consts: int
    consts: int


def while_parts(equation: jex.JaxprEqn) -> While:
    """Take a loop apart.

    Args:
        equation: Of the primitive ``while``.

    Returns:
        Test, body and counts.
    """
    names = "cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts"
    return While(*(equation.params[name] for name in names))
