"""The Hessian of a loss as a linear operator."""

import functools
from collections.abc import Callable
from functools import partial

import jax

from funcdl import _mean, _tree
from funcdl._closure import hoisted
from funcdl._typing import PyTree
from funcdl.linalg import Action, LinearOperator, Space, space


def hessian(loss: Callable, params: PyTree, data: PyTree = None) -> LinearOperator:
    r"""Take the Hessian of a loss in its parameters, :math:`\nabla^2_\theta\, \ell(\theta)`.

    Nothing is stored but parameters and data; each product is one pass forward over reverse. Over
    several batches the loss is the mean over all examples, whatever the split.

    Args:
        loss: ``loss(params, batch)``, or ``loss(params)`` without data: a scalar mean over the
            examples, or ``Mean(total, weight)`` whose weight does not depend on the parameters.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, scanned in stored order.

    Returns:
        A symmetric operator on trees like ``params``. ``block(rows, columns)`` differentiates
        only the leaves it names.

    Raises:
        ValueError: If the loss is not scalar, or there are no parameters.
        TypeError: If a parameter is not a float array; its path is named.

    >>> import jax.numpy as jnp
    >>> A = hessian(lambda x: x["a"] ** 2 * x["b"], {"a": jnp.asarray(1.0), "b": jnp.asarray(3.0)})
    >>> A.dense().tolist(), A.block("a").dense().tolist()
    ([[6.0, 2.0], [2.0, 0.0]], [[6.0]])
    """
    if not callable(loss):
        raise TypeError(
            f"loss is a {type(loss).__name__}; expected a function loss(params, batch): of an "
            "objective, train.eval_loss(objective, run.state)"
        )
    _tree.check_floating(params, "params")
    examples = [(params,)] if data is None else [(params, form) for form in _mean.forms(data)]
    loss = hoisted(loss, *examples)
    _check_scalar(jax.eval_shape(loss, *examples[0]))
    form = _form(params)
    return LinearOperator(_HESSIAN, (loss, params, data), form, form, symmetric=True)


def _form(params: PyTree) -> Space:
    """Vectors are like the parameters, in at least float32."""
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _tree.wide(x.dtype)), params)
    return space(wide)


def _check_scalar(value) -> None:
    parts = value if isinstance(value, _mean.Mean) else (value,)
    if any(getattr(part, "shape", None) != () for part in parts):
        got = jax.tree.map(lambda x: f"shape {x.shape}", value)
        raise ValueError(
            f"loss returned {got}; expected a scalar mean over the examples or Mean(total, weight)"
        )
    if not jax.numpy.issubdtype(parts[0].dtype, jax.numpy.floating):
        raise TypeError(f"loss returned dtype {parts[0].dtype}; expected a float")


def _sum_over_data(product: Callable, operands, v: PyTree) -> PyTree:
    """Add ``product(total, params, v) -> (direction, weight)`` over the batches, divide once."""
    loss, params, data = operands

    def one(batch):
        def total(params):
            mean = _mean.weighted(loss(params, *batch), batch)
            return mean.total, mean.weight

        direction, weight = product(total, params, v)
        return jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), direction), weight

    if data is None:
        direction, weight = one(())
    else:
        direction, weight = _mean.total(lambda batch: one((batch,)), data)
    return _tree.scale(1 / weight, direction)


def _whole(total: Callable, params: PyTree, v: PyTree):
    v = jax.tree.map(lambda x, p: x.astype(p.dtype), v, params)
    _, direction, weight = jax.jvp(jax.grad(total, has_aux=True), (params,), (v,), has_aux=True)
    return direction, weight


def _between(rows, columns, total: Callable, params: PyTree, v: PyTree):
    chosen, merge_columns = _tree.select(params, columns)
    v = jax.tree.map(lambda x, p: x.astype(p.dtype), v, chosen)

    def gradient(chosen):
        outputs, merge_rows = _tree.select(merge_columns(chosen), rows)
        return jax.grad(lambda y: total(merge_rows(y)), has_aux=True)(outputs)

    _, direction, weight = jax.jvp(gradient, (chosen,), (v,), has_aux=True)
    return direction, weight


def _block(operands, rows, columns) -> LinearOperator:
    rows, columns = ((w,) if isinstance(w, str) else tuple(w) for w in (rows, columns))
    params = operands[1]
    space_out, space_in = (_form(_tree.select(params, where).chosen) for where in (rows, columns))
    same = space_in == space_out
    return LinearOperator(_block_action(rows, columns), operands, space_in, space_out, same)


@functools.cache
def _block_action(rows: tuple[str, ...], columns: tuple[str, ...]) -> Action:
    """Return the action of a block and its transpose; cached: equal blocks share a compilation."""
    return Action(
        partial(_sum_over_data, partial(_between, rows, columns)),
        transpose=partial(_sum_over_data, partial(_between, columns, rows)),
    )


_HESSIAN = Action(partial(_sum_over_data, _whole), block=_block)
