"""The Hessian of a loss as a linear operator."""

import inspect

import jax

from funcdl import _batching, _tree
from funcdl._batch_size import check_mean
from funcdl._closure import hoisted
from funcdl._typing import Array, LossFunction, PyTree
from funcdl.curvature._block_derivatives import Leaves
from funcdl.curvature._mean_operator import check_function, check_scalar, over_data, weighted
from funcdl.curvature._stream_operator import Operator


def hessian(loss: LossFunction, params: PyTree, data: PyTree = None) -> Operator:
    r"""Return the Hessian of a loss in its parameters, :math:`\nabla^2_\theta\, \ell(\theta)`.

    Only parameters and data are stored; each product is one forward-over-reverse pass. Over several
    batches the loss is the mean over all examples, for any split.

    Args:
        loss: ``loss(params, batch)``, or ``loss(params)`` without data: a scalar mean over the
            examples, or ``Mean(total, weight)`` whose weight does not depend on the parameters.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, scanned in stored order; or a stream, that is, an
            iterable of batches that starts again at each pass.

    Returns:
        A symmetric operator on trees like ``params``. ``block(rows, columns)`` differentiates
        only the leaves that it selects. For a stream, a ``StreamOperator`` for host solvers.

    Raises:
        ValueError: If the loss is not scalar, is a sum over the examples, or ``params`` is empty.
        TypeError: If a parameter is not a float array; the message names its path. If data are
            missing.

    >>> import jax.numpy as jnp
    >>> A = hessian(lambda x: x["a"] ** 2 * x["b"], {"a": jnp.asarray(1.0), "b": jnp.asarray(3.0)})
    >>> A.dense().tolist(), A.block("a").dense().tolist()
    ([[6.0, 2.0], [2.0, 0.0]], [[6.0]])
    """
    hint = "; for an objective, use train.eval_loss(objective, run.state)"
    check_function(loss, "loss", "params, batch", hint)
    _tree.check_floating(params, "params")
    if data is None:
        _check_takes_params_alone(loss, params)
    forms = [()] if data is None else [(form,) for form in _batching.forms(_batching.first(data))]
    examples = [(params, *form) for form in forms]
    loss = hoisted(loss, *examples)
    check_scalar(jax.eval_shape(loss, *examples[0]))
    if forms[0]:
        check_mean(loss, params, *forms[0])
    return over_data(_product, (loss,), params, data)


def _check_takes_params_alone(loss: LossFunction, params: PyTree) -> None:
    try:
        signature = inspect.signature(loss)
    except ValueError:  # a builtin may have none
        return
    try:
        signature.bind(params)
    except TypeError as error:
        raise TypeError(
            f"loss cannot be called as loss(params): {error}; expected hessian(loss, params, data) "
            "for a loss(params, batch)"
        ) from None


def _product(functions: tuple, leaves: Leaves, v: PyTree, *batch: PyTree) -> tuple[PyTree, Array]:
    total = weighted(functions[0], *batch)

    def gradient(params):
        chosen, merge = _tree.select(params, leaves.rows)
        return jax.grad(lambda c: total(merge(c)), has_aux=True)(chosen)

    (_, weight), (direction, _) = leaves.jvp(gradient, v)
    return direction, weight
