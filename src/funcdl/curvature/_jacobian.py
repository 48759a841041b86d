"""Jacobians of outputs, and the neural tangent kernel, as linear operators."""

from collections.abc import Callable

import jax

from funcdl import _batching, _tree
from funcdl._closure import hoisted
from funcdl._typing import Array, PyTree
from funcdl.curvature._block_derivatives import vectors
from funcdl.curvature._mean_operator import check_function
from funcdl.operators import Action, LinearOperator
from funcdl.per_example import jacobian_gram


def jacobian(f: Callable, params: PyTree, data: PyTree) -> LinearOperator:
    r"""Return the Jacobian of outputs in the parameters, :math:`J = \partial z / \partial \theta`.

    ``J @ v`` is one forward pass, ``J.T @ w`` one backward pass; over several batches, the outputs
    of all examples are concatenated.

    Args:
        f: ``f(params, batch) -> z``, a pytree of float arrays, each with a leading axis of
            examples.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, in stored order.

    Returns:
        An operator from trees like ``params`` to trees like z.

    Raises:
        ValueError: If ``params`` is empty or ``data`` is ``None``.
        TypeError: If a parameter or an output is not a float array; the message names its path.

    >>> import jax.numpy as jnp
    >>> x = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])
    >>> J = jacobian(lambda w, x: jnp.tanh(x @ w), jnp.zeros(2), x)
    >>> J.dense().tolist(), (J.T @ jnp.ones(2)).tolist()
    ([[1.0, 2.0], [3.0, 0.0]], [4.0, 2.0])
    """
    check_function(f, "f", "params, batch")
    _tree.check_floating(params, "params")
    if data is None:
        raise ValueError("data is None; expected one batch of arrays, or Batches")
    forms = _batching.forms(data)
    # other sizes too, at which `dense` checks whether examples interact
    forms += [_batching.resized(forms[0], size) for size in (1, *_batching.SIZES)]
    f = hoisted(f, *((params, form) for form in forms))
    outputs = jax.eval_shape(lambda p, d: _batching.each(lambda b: f(p, b), d), params, data)
    _tree.check_floating(outputs, "z = f(params, batch)")
    return LinearOperator(_JACOBIAN, (f, params, data), vectors(params), vectors(outputs))


def ntk(f: Callable, params: PyTree, data: PyTree, other: PyTree = None) -> LinearOperator:
    r"""Return the neural tangent kernel, :math:`K = J J'^\top`.

    A product takes a backward and a forward pass. For one batch of outputs ``(b, c)``, ``dense()``
    multiplies the factors of single examples (``per_example.jacobian_gram``), which is many times
    faster than one product per column.

    Args:
        f: The model, as in ``jacobian``; for ``dense()`` the examples must not interact.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``: the examples of the result.
        other: The examples of the vectors; by default ``data``, which makes K symmetric and
            positive semi-definite.

    Returns:
        An operator between trees like z.

    Raises:
        ValueError: If ``params`` is empty or ``data`` is ``None``.
        TypeError: If a parameter or an output is not a float array; the message names its path.

    Source: Jacot, Gabriel and Hongler, "Neural tangent kernel", NeurIPS (2018).

    >>> import jax.numpy as jnp
    >>> x = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])
    >>> ntk(lambda w, x: x @ w, jnp.zeros((2, 1)), x).dense().tolist()
    [[5.0, 3.0], [3.0, 9.0]]
    """
    left = jacobian(f, params, data)
    if other is None:
        return LinearOperator(_GRAM, left, left.space_out, left.space_out, True, True)
    right = jacobian(f, params, other)
    return LinearOperator(_CROSS, (left, right), right.space_out, left.space_out)


def _forward(operands: tuple, v: PyTree) -> PyTree:
    f, params, data = operands
    v = jax.tree.map(lambda x, p: x.astype(p.dtype), v, params)
    along = lambda batch: _tree.widened(jax.jvp(lambda p: f(p, batch), (params,), (v,))[1])
    return _batching.each(along, data)


def _backward(operands: tuple, w: PyTree) -> PyTree:
    f, params, data = operands
    # recomputed in the backward pass, so that no batch keeps its intermediate values
    one = lambda params: jax.checkpoint(lambda batch: f(params, batch))
    outputs, back = jax.vjp(lambda params: _batching.each(one(params), data), params)
    w = jax.tree.map(lambda x, z: x.astype(z.dtype), w, outputs)
    return _tree.widened(back(w)[0])


def _cross(pair: tuple[LinearOperator, LinearOperator], w: PyTree) -> PyTree:
    left, right = pair
    return left @ (right.T @ w)


@jax.jit
def _dense(left: LinearOperator, right: LinearOperator | None = None) -> Array | None:
    """Multiply the factors of single examples; only for single batches of outputs ``(b, c)``."""
    (f, params, data), other = left.operands, right and right.operands[2]
    shapes = [a.shape for a in left.space_out.leaves]
    if (
        _batching.is_many(data)
        or _batching.is_many(other)
        or len(shapes) != 1
        or len(shapes[0]) != 2
    ):
        return None
    gram = jacobian_gram(f)(params, data, other)
    return gram.reshape(left.space_out.size, -1)


_JACOBIAN = Action(_forward, _backward)
_GRAM = Action(lambda a, w: a @ (a.T @ w), dense=_dense)
_CROSS = Action(_cross, lambda pair, w: _cross(pair[::-1], w), dense=lambda p: _dense(*p))
