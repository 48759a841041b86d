"""Forward derivatives of a function that has a rule for reverse mode only."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from funcdl._jaxpr import CALLS, called, each, interpret, scan_parts, while_parts
from funcdl._numerics import no_tangent
from funcdl._typing import Array

# The rule of a ``jax.custom_vjp`` is its derivative, also where it differs from that of the body,
# as for a straight-through estimator or an implicit function. It maps a cotangent w to J^T w, so
# its transpose maps a tangent to J v, at the cost of one product. A rule that jax cannot transpose,
# such as one with an iteration inside, is applied to each unit vector instead.


def with_forward_mode(evaluate: Callable) -> Callable:
    """Add forward mode to the evaluation of a ``jax.custom_vjp``.

    Args:
        evaluate: ``(*operands) -> list`` of results, with derivatives in reverse mode.

    Returns:
        A function that computes the same, with derivatives in both modes, to any order that the
        rule itself has.
    """

    @jax.custom_jvp
    def call(*operands):
        return evaluate(*operands)

    @call.defjvp
    def _(operands, tangents):
        results = call(*operands)
        inputs = [at for at, x in enumerate(operands) if _is_float(x)]
        images = [at for at, y in enumerate(results) if _is_float(y)]

        def floats(*points):
            full = dict(enumerate(operands)) | dict(zip(inputs, points))
            values = evaluate(*(full[at] for at in range(len(full))))
            return [values[at] for at in images]

        points, values = [operands[at] for at in inputs], [results[at] for at in images]
        # as a jaxpr, because the rule may call its own function, which has no forward mode
        rule = jax.make_jaxpr(lambda x, w: list(jax.vjp(floats, *x)[1](w)))(points, values)
        pull = lambda w: interpret(rule, [*points, *w], _with_forward_mode)
        pushed = _pushed(pull, values, [tangents[at] for at in inputs])
        found = dict(zip(images, pushed))
        return results, [found.get(at, no_tangent(y)) for at, y in enumerate(results)]

    return lambda *operands: list(call(*operands))


def _with_forward_mode(eqn: jex.JaxprEqn, operands: list, plainly: Callable) -> list:
    """Evaluate an equation; those with a rule for reverse mode get a forward mode."""
    if eqn.primitive.name in CALLS:
        return interpret(called(eqn), operands, _with_forward_mode)
    if eqn.primitive.name == "custom_vjp_call":
        return with_forward_mode(plainly)(*operands)
    return list(loop_with_forward_mode(eqn, plainly)(*operands))


def loop_with_forward_mode(eqn: jex.JaxprEqn, plainly: Callable) -> Callable:
    """Add forward mode to the functions inside a loop or branch that have a rule for reverse mode.

    Args:
        eqn: Any equation.
        plainly: ``(*operands) -> list`` of results, its evaluation.

    Returns:
        An evaluation that builds the loop or branch again; ``plainly`` itself if it does not
        contain such a function.
    """
    build = _BUILD.get(eqn.primitive.name)
    has_rule = any(e.primitive.name == "custom_vjp_call" for e in each(eqn))
    return partial(build, eqn) if build and has_rule else plainly


def _function(jaxpr: Any) -> Callable:
    return lambda *operands: interpret(jaxpr, list(operands), _with_forward_mode)


def _scan(eqn: jex.JaxprEqn, *operands: Any) -> list:
    parts = scan_parts(eqn)
    last = parts.consts + parts.carry
    step, consts = _function(parts.body), operands[: parts.consts]

    def body(carry, xs):
        results = step(*consts, *carry, *xs)
        return results[: parts.carry], results[parts.carry :]

    start = list(map(jnp.asarray, operands[parts.consts : last]))
    carry, ys = jax.lax.scan(body, start, list(operands[last:]), **parts.options)
    return [*carry, *ys]


def _while(eqn: jex.JaxprEqn, *operands: Any) -> list:
    parts = while_parts(eqn)
    first, last = parts.test_consts, parts.test_consts + parts.consts
    test, step = _function(parts.test), _function(parts.body)
    is_on = lambda carry: test(*operands[:first], *carry)[0]
    start = list(map(jnp.asarray, operands[last:]))
    return jax.lax.while_loop(is_on, lambda c: step(*operands[first:last], *c), start)


def _cond(eqn: jex.JaxprEqn, *operands: Any) -> list:
    index, *rest = operands
    options = [_function(branch) for branch in eqn.params["branches"]]
    return jax.lax.switch(jnp.asarray(index, int), options, *rest)


_BUILD = {"scan": _scan, "while": _while, "cond": _cond}


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _pushed(pull: Callable, images: list, tangents: list) -> list:
    """Return J v from the function that maps w to J^T w."""
    forms = [jax.ShapeDtypeStruct(jnp.shape(y), jnp.result_type(y)) for y in images]
    try:
        return jax.linear_transpose(lambda w: list(pull(w)), forms)(tangents)[0]
    # `pull` was traced before, so that these are the ways in which jax says that it cannot
    # transpose an operation; the rows give the same result at a higher cost
    except (AssertionError, NotImplementedError, TypeError, ValueError):
        return [_row_by_row(pull, images, k, tangents) for k in range(len(images))]


def _row_by_row(pull: Callable, images: list, k: int, tangents: list) -> Array:
    """Return one of the results of J v, one row of J at a time."""
    zeros = [jnp.zeros_like(y) for y in images]

    def number(unit):
        cotangents = [unit.reshape(y.shape) if i == k else y for i, y in enumerate(zeros)]
        terms = [jnp.vdot(w, v) for w, v in zip(pull(cotangents), tangents, strict=True)]
        return jnp.stack(terms).sum()

    units = jnp.eye(images[k].size, dtype=images[k].dtype)
    return jax.vmap(number)(units).reshape(images[k].shape).astype(images[k].dtype)
