"""The algebra of operators: what sums, products, transposes and blocks do with a vector."""

import functools

import jax

from funcdl import _tree
from funcdl.linalg._space import Action


def _transpose(a, w):
    if a.action.transpose is not None:
        return a.action.transpose(a.operands, w)
    return jax.linear_transpose(a.__matmul__, a.shape_in)(w)[0]


def _ravelled(a, v):
    flatten = _tree.ravel(a.shape_out)[0]
    return flatten(a @ _tree.ravel(a.shape_in)[1](v))


TRANSPOSED = Action(_transpose, lambda a, v: a @ v)
CHAINED = Action(lambda ab, v: ab[0] @ (ab[1] @ v), lambda ab, w: ab[1].T @ (ab[0].T @ w))
SUMMED = Action(
    lambda ab, v: _tree.add(ab[0] @ v, ab[1] @ v),
    lambda ab, w: _tree.add(ab[0].T @ w, ab[1].T @ w),
    lambda ab, rows, columns: ab[0].block(rows, columns) + ab[1].block(rows, columns),
)
SCALED = Action(
    lambda ca, v: _tree.scale(ca[0], ca[1] @ v),
    lambda ca, w: _tree.scale(ca[0], ca[1].T @ w),
    lambda ca, rows, columns: ca[0] * ca[1].block(rows, columns),
)
SHIFTED = Action(
    lambda ca, v: _tree.axpy(ca[0], v, ca[1] @ v),
    lambda ca, w: _tree.axpy(ca[0], w, ca[1].T @ w),
)
RAVELLED = Action(_ravelled, lambda a, w: _ravelled(a.T, w))


def is_gram(a, b) -> bool:
    """Tell whether ``a @ b`` is an operator times its own transpose."""
    if a is b:
        return a.symmetric
    return any(x.action is TRANSPOSED and x.operands is y for x, y in ((a, b), (b, a)))


@functools.cache
def block(rows: tuple[str, ...], columns: tuple[str, ...]) -> Action:
    """Return the action on chosen leaves; cached, so that equal blocks are equal in a jit cache."""

    def matvec(a, v):
        zero = _tree.zeros(a.shape_in)
        return _tree.select(a @ _tree.select(zero, columns).merge(v), rows).chosen

    def transpose(a, w):
        zero = _tree.zeros(a.shape_out)
        return _tree.select(a.T @ _tree.select(zero, rows).merge(w), columns).chosen

    return Action(matvec, transpose)
