"""A user's own inverse and log-determinant for one function."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._jaxpr import called, interpret
from funcdl._typing import PyTree


class Rule(NamedTuple):
    """What a user says of a function.

    Attributes:
        inverse: ``(y, *args) -> x``, or None.
        log_det: ``(x, *args) -> scalar``.
        structure: Of ``(x, args)``.
        out: Of f(x).
        forms: Shapes and dtypes of the leaves of ``(x, args)``: of a batch they differ, and the
            function is read as if it had no rule.
    """

    inverse: Callable | None
    log_det: Callable
    structure: PyTree
    out: PyTree
    forms: tuple


_PREFIX = "density_rule_"
_RULES: dict[str, Rule] = {}
_CALLS: dict[tuple, Callable] = {}


def rule(f: Callable, *, log_det: Callable, inverse: Callable | None = None) -> Callable:
    r"""Give a function its log-determinant and its inverse by hand.

    They are used wherever f stands in a program as a map of all that its x holds; elsewhere, and
    inside of ``jax.vmap``, the function is read like any other. ``check`` compares them with what
    the function does.

    Args:
        f: ``f(x, *args)``.
        log_det: ``log_det(x, *args) -> scalar``, :math:`\log|\det \partial f/\partial x|`.
        inverse: ``inverse(y, *args) -> x``; without one, f is inverted as if it had no rule.

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
        key = f, log_det, inverse, structure, forms
        if key not in _CALLS:  # one jitted function a form, or every eager call would compile
            _CALLS[key] = _named(f, structure, f"{_PREFIX}{len(_CALLS)}")
            out = jax.tree.structure(jax.eval_shape(f, x, *args))
            _RULES[_CALLS[key].__name__] = Rule(inverse, log_det, structure, out, forms)
        return _CALLS[key](*leaves)

    return with_rule


def _named(f: Callable, structure: PyTree, name: str) -> Callable:
    """Compile f of leaves, as a call that bears a name in every jaxpr."""

    def named(*leaves):
        x, args = jax.tree.unflatten(structure, leaves)
        return f(x, *args)

    named.__name__ = named.__qualname__ = name
    return jax.jit(named)


def rule_of(eqn) -> Rule | None:
    """Return the rule of a call, if it has one and is given what the rule was written for."""
    found = _RULES.get(str(eqn.params.get("name")))
    forms = tuple((v.aval.shape, v.aval.dtype) for v in eqn.invars)
    return found if found is not None and found.forms == forms else None


def evaluate(eqn, rule: Rule, operands: Sequence) -> tuple:
    """Evaluate a call and its log-determinant.

    Args:
        eqn: The call.
        rule: Its rule.
        operands: Values.

    Returns:
        The results and a scalar.
    """
    results = interpret(called(eqn), list(operands), lambda _e, o, plainly: plainly(*o))
    x, args = jax.tree.unflatten(rule.structure, operands)
    return results, rule.log_det(x, *args)
