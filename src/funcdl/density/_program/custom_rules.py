"""Functions whose inverse and log-determinant the user supplies."""

import collections
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from funcdl._closure import as_partial, current
from funcdl._jaxpr import called, interpret
from funcdl._typing import Function, PyTree, Scalar, ScalarFunction


class Rule(NamedTuple):
    """The inverse and the log-determinant that the user supplied for a function.

    Attributes:
        inverse: ``(y, *args) -> x``, or None.
        log_det: ``(x, *args) -> scalar``.
        structure: The tree structure of ``(x, args)``.
        out: The tree structure of f(x).
        forms: The shapes and dtypes of the leaves of ``(x, args)``. Under ``jax.vmap`` they differ,
            and the function is read as if it had no rule.
    """

    inverse: Function | None
    log_det: ScalarFunction
    structure: PyTree
    out: PyTree
    forms: tuple


_PREFIX = "density_rule_"
_RULES: dict[str, Rule] = {}
_CALLS: collections.OrderedDict[tuple, Function] = collections.OrderedDict()
_NUMBERS = itertools.count()
_MOST = 512  # functions that are remembered; one that is forgotten is registered again when called


def rule(f: Function, *, log_det: ScalarFunction, inverse: Function | None = None) -> Function:
    r"""Supply the log-determinant and the inverse of a function by hand.

    They are used wherever f maps all floats of its x, as a segment of the map or in its inverse.
    Elsewhere, and inside ``jax.vmap``, the function is read like any other. ``check`` compares
    the rule with the Jacobian of the function.

    Args:
        f: The function ``f(x, *args)``.
        log_det: A function ``log_det(x, *args)`` that returns
            :math:`\log|\det \partial f/\partial x|`.
        inverse: A function ``inverse(y, *args) -> x``; without one, f is inverted as if it had no
            rule.

    Returns:
        A function that computes the same as f.

    >>> import jax.numpy as jnp
    >>> from funcdl import density
    >>> squareplus = density.rule(
    ...     lambda x: (x + jnp.sqrt(x**2 + 4)) / 2,
    ...     log_det=lambda x: -jnp.log1p(jnp.exp(-2 * jnp.arcsinh(x / 2))).sum(),
    ...     inverse=lambda y: y - 1 / y,
    ... )
    >>> density.inverse(squareplus)(jnp.array([2.0]))
    Array([1.5], dtype=float32)
    """

    def with_rule(x, *args):
        leaves, structure = jax.tree.flatten((x, args))
        forms = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        g = current(as_partial(f), x, *args).func  # another one if a capture of f has changed
        key = g, log_det, inverse, structure, forms
        if key not in _CALLS:  # one jitted function per form, or every eager call would compile
            _CALLS[key] = _named(f, structure, f"{_PREFIX}{next(_NUMBERS)}")
            out = jax.tree.structure(jax.eval_shape(lambda *given: f(*given), x, *args))
            _RULES[_CALLS[key].__name__] = Rule(inverse, log_det, structure, out, forms)
            while len(_CALLS) > _MOST:
                _RULES.pop(_CALLS.popitem(last=False)[1].__name__)
        _CALLS.move_to_end(key)
        return _CALLS[key](*leaves)

    return with_rule


def _named(f: Function, structure: PyTree, name: str) -> Function:
    """Return a jitted function of the leaves whose call has the given name in every jaxpr."""

    def named(*leaves):
        x, args = jax.tree.unflatten(structure, leaves)
        return f(x, *args)

    named.__name__ = named.__qualname__ = name
    return jax.jit(named)


def rule_of(eqn: jex.JaxprEqn) -> Rule | None:
    """Return the rule of a call, if there is one for operands of these shapes and dtypes."""
    rule = _RULES.get(str(eqn.params.get("name")))
    avals: list[Any] = [v.aval for v in eqn.invars]
    forms = tuple((aval.shape, aval.dtype) for aval in avals)
    return rule if rule is not None and rule.forms == forms else None


def evaluate(eqn: jex.JaxprEqn, rule: Rule, operands: Sequence) -> tuple[list, Scalar]:
    """Evaluate a call and its log-determinant.

    Args:
        eqn: The call.
        rule: The rule of the function that is called.
        operands: The values of the operands.

    Returns:
        The results and the log-determinant.
    """
    results = interpret(called(eqn), list(operands), lambda _e, o, plainly: plainly(*o))
    x, args = jax.tree.unflatten(rule.structure, operands)
    return results, rule.log_det(x, *args)
