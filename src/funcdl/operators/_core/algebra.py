"""The algebra of operators: how sums, products, transposes and blocks act on a vector."""

import functools

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, PyTree
from funcdl.operators._core.space import Action, Operator


def _transpose(a: Operator, w: PyTree) -> PyTree:
    if a.action.transpose is not None:
        return a.action.transpose(a.operands, w)
    return jax.linear_transpose(a.__matmul__, a.shape_in)(w)[0]


def _raveled(a: Operator, v: Array) -> Array:
    flatten = _tree.ravel(a.shape_out)[0]
    return flatten(a @ _tree.ravel(a.shape_in)[1](v))


def _solve_transposed(a: Operator, w: PyTree) -> PyTree:
    return jax.linear_transpose(a.solve, a.shape_out)(w)[0]


def _solve_raveled(a: Operator, b: Array) -> Array:
    flatten = _tree.ravel(a.shape_in)[0]
    return flatten(a.solve(_tree.ravel(a.shape_out)[1](b)))


def _shifted(ca: tuple[Array, Operator]) -> Operator:
    c, a = ca
    return a.action.shift(a.operands, c)


TRANSPOSED = Action(
    _transpose,
    lambda a, v: a @ v,
    solve=_solve_transposed,
    logdet=lambda a: a.logdet(),
)
CHAINED = Action(
    lambda ab, v: ab[0] @ (ab[1] @ v),
    lambda ab, w: ab[1].T @ (ab[0].T @ w),
    solve=lambda ab, b: ab[1].solve(ab[0].solve(b)),
    logdet=lambda ab: ab[0].logdet() + ab[1].logdet(),
)
SUMMED = Action(
    lambda ab, v: _tree.add(ab[0] @ v, ab[1] @ v),
    lambda ab, w: _tree.add(ab[0].T @ w, ab[1].T @ w),
    lambda ab, rows, columns: ab[0].block(rows, columns) + ab[1].block(rows, columns),
)
SCALED = Action(
    lambda ca, v: _tree.scale(ca[0], ca[1] @ v),
    lambda ca, w: _tree.scale(ca[0], ca[1].T @ w),
    lambda ca, rows, columns: ca[0] * ca[1].block(rows, columns),
    solve=lambda ca, b: _tree.scale(1 / ca[0], ca[1].solve(b)),
    logdet=lambda ca: ca[1].space_in.size * jnp.log(jnp.abs(ca[0])) + ca[1].logdet(),
    shift=lambda ca, damping: ca[0] * ca[1].shift(damping / ca[0]),
)
SHIFTED = Action(
    lambda ca, v: _tree.axpy(ca[0], v, ca[1] @ v),
    lambda ca, w: _tree.axpy(ca[0], w, ca[1].T @ w),
    solve=lambda ca, b: _shifted(ca).solve(b),
    logdet=lambda ca: _shifted(ca).logdet(),
)
INVERTED = Action(
    lambda a, v: a.solve(v),
    lambda a, w: a.T.solve(w),
    solve=lambda a, b: a @ b,
    logdet=lambda a: -a.logdet(),
)
RAVELED = Action(
    _raveled,
    lambda a, w: _raveled(a.T, w),
    solve=_solve_raveled,
    logdet=lambda a: a.logdet(),
)


def like(action: Action, *parts: Action) -> Action:
    """Keep ``solve``, ``logdet`` and ``shift`` of an action only where all its parts have them."""
    names = "solve", "logdet", "shift"
    lost = [name for name in names if any(not getattr(p, name) for p in parts)]
    return action._replace(**dict.fromkeys(lost))


def like_shifted(a: Action) -> Action:
    """Return the action of a shift; it has a ``solve`` where the shifted structure has one."""
    return SHIFTED if a.shift else SHIFTED._replace(solve=None, logdet=None)


def like_inverse(a: Action) -> Action:
    """Return the action of an inverse; it has a ``logdet`` where the operator has one."""
    return INVERTED if a.logdet else INVERTED._replace(logdet=None)


def is_gram(a: Operator, b: Operator) -> bool:
    """Check whether ``a @ b`` is an operator times its own transpose."""
    if a is b:
        return a.symmetric
    return any(x.action.matvec is _transpose and x.operands is y for x, y in ((a, b), (b, a)))


@functools.cache
def block(rows: tuple[str, ...], columns: tuple[str, ...]) -> Action:
    """Return the action on chosen leaves; cached, so that equal blocks hit the same jit cache."""

    def matvec(a, v):
        zero = _tree.zeros(a.shape_in)
        return _tree.select(a @ _tree.select(zero, columns).merge(v), rows).chosen

    def transpose(a, w):
        zero = _tree.zeros(a.shape_out)
        return _tree.select(a.T @ _tree.select(zero, rows).merge(w), columns).chosen

    return Action(matvec, transpose)
