"""Derivatives of every single example, from one backward pass over all of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _batching, _mean, _tree
from funcdl._check import function, in_two_steps
from funcdl._closure import as_partial
from funcdl._typing import Array, ArrayLike, LossFunction, PyTree
from funcdl.per_example import _factor_algebra as _factors
from funcdl.per_example._blocks import Examples, Pass, over_blocks
from funcdl.per_example._independence import require_independent


@in_two_steps
def grad(loss: LossFunction) -> Callable:
    r"""Compute the gradient of the loss of every example, :math:`\nabla_\theta\, \ell_i(\theta)`.

    The loss of one example is that of a batch of one. Parameters are used in matrix products,
    convolutions, look-ups and elementwise; for any model, one backward pass over the whole batch
    gives the factors of all these gradients (``uses`` lists them).

    Args:
        loss: ``loss(params, batch)``: a scalar mean over the examples, or ``Mean``.

    Returns:
        A function ``gradients(params, batch)`` that returns a tree like ``params`` with a leading
        axis of examples. Leaves that are not floats are returned unchanged. It raises
        ``ExamplesInteractError`` if examples interact, with the operation and its line.

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> grad(loss)(jnp.ones(2), jnp.asarray([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[6.0, 12.0], [0.0, 2.0]]
    """
    return partial(call, _gradients, loss)


@in_two_steps
def grad_norm(loss: LossFunction) -> Callable:
    r"""Compute the norm of every example's gradient, :math:`\|\nabla_\theta\,\ell_i(\theta)\|`.

    Where a parameter is used once, its gradients are not formed: the norms then cost less than one
    gradient of the mean.

    Args:
        loss: The loss, as in ``grad``.

    Returns:
        A function ``norms(params, batch)`` that returns ``(b,)`` and raises errors like ``grad``.

    Source: Goodfellow, "Efficient per-example gradient computations" (2015).

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> grad_norm(loss)(jnp.ones(2), jnp.asarray([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [70.0, 2.0]
    """
    return partial(call, _norms, loss)


@in_two_steps
def grad_second_moment(loss: LossFunction) -> Callable:
    r"""Average the squared gradients of the examples, :math:`\sum_i w_i g_i^2 / \sum_i w_i`.

    This is the diagonal of the empirical Fisher matrix, at the cost of about one gradient. Examples
    are weighted as in the loss: equally, or by the weight of ``Mean``.

    Args:
        loss: The loss, as in ``grad``.

    Returns:
        A function ``moment(params, batch)`` that returns a tree like ``params`` and raises errors
        like ``grad``.

    Source: Dangel, Kunstner and Hennig, "BackPACK: packing more into backprop", ICLR (2020).

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> grad_second_moment(loss)(jnp.ones(2), jnp.asarray([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [18.0, 74.0]
    """
    return partial(call, _moment, loss)


@in_two_steps
def clipped_grad(loss: LossFunction, bound: float | Array) -> Callable:
    r"""Average gradients that are clipped to a bounded norm.

    .. math:: \sum_i w_i\, g_i \min(1, c / \|g_i\|) \Big/ \sum_i w_i

    A single example changes the result by at most its share of c, as differential privacy requires.

    Args:
        loss: The loss, as in ``grad``.
        bound: The largest norm c of the gradient of one example; positive.

    Returns:
        A function ``gradient(params, batch)`` that returns a tree like ``params`` and raises errors
        like ``grad``.

    Raises:
        ValueError: If the bound is not positive.

    Source: Abadi et al., "Deep learning with differential privacy", CCS (2016).

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> clipped_grad(loss, 5.0)(jnp.ones(2), jnp.asarray([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [1.5, 3.0]
    """
    if isinstance(bound, (int, float)) and not bound > 0:
        raise ValueError(f"bound is {bound}; expected a positive number")
    return partial(call, _clipped, loss, bound=bound)


@in_two_steps
def gram(loss: LossFunction) -> Callable:
    r"""Compute the inner products of the gradients of all pairs, :math:`\langle g_i, g_j \rangle`.

    The eigenvalues are those of the empirical Fisher matrix, times the number of examples. All
    factors of the batch are held in memory at once.

    Args:
        loss: The loss, as in ``grad``.

    Returns:
        A function ``gram(params, batch)`` that returns ``(b, b)`` and raises errors like ``grad``.

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> gram(loss)(jnp.ones(2), jnp.asarray([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[180.0, 24.0], [24.0, 4.0]]
    """
    return partial(call, _gram, loss)


def call(f: Callable, loss: Callable, params: PyTree, batch: PyTree, **options: Any) -> Any:
    """Check the arguments, and pass the loss on as a pytree."""
    _check(loss, params, batch)
    return f(as_partial(loss), params, batch, **options)


def _check(loss: object, params: PyTree, batch: PyTree) -> None:
    function("loss", loss, "a function loss(params, batch)")
    if not _batching.examples(batch):
        raise ValueError("batch has no examples")
    dtypes = map(jnp.result_type, jax.tree.leaves(params))
    if not any(jnp.issubdtype(d, jnp.floating) for d in dtypes):
        raise ValueError("params has no leaves of floats, so there is nothing to differentiate")


def loss_of_each(loss: Callable, params: PyTree, batch: PyTree) -> Pass:
    """Return the loss of each example and its weight, and the pullback of the loss."""
    require_independent(loss, params, batch)

    def each(params, batch):
        mean = _mean.weighted(loss(params, batch), batch)
        return mean.total / jnp.where(mean.weight == 0, 1, mean.weight), mean.weight

    return Pass(each, lambda y, pullback: pullback((jnp.ones_like(y[0]), jnp.zeros_like(y[1]))))


@jax.jit
def _gradients(loss: Partial, params: PyTree, batch: PyTree) -> PyTree:
    n, way = _batching.examples(batch), loss_of_each(loss, params, batch)
    blocks = over_blocks(lambda e: e.map(_factors.gradients), way, params, batch)
    return like(params, [x if x is None else x.reshape(-1, *x.shape[2:])[:n] for x in blocks])


@jax.jit
def _norms(loss: Partial, params: PyTree, batch: PyTree) -> Array:
    norms = over_blocks(_norms_of, loss_of_each(loss, params, batch), params, batch)
    return norms.reshape(-1)[: _batching.examples(batch)]


@jax.jit
def _moment(loss: Partial, params: PyTree, batch: PyTree) -> PyTree:
    def sums(e: Examples):
        weight = _weight(e)
        return e.map(lambda uses, p: _factors.second_moment(uses, weight, p)), weight.sum()

    blocks = over_blocks(sums, loss_of_each(loss, params, batch), params, batch)
    return like(params, averaged(blocks))


@jax.jit
def _clipped(loss: Partial, params: PyTree, batch: PyTree, bound: ArrayLike) -> PyTree:
    def sums(e: Examples):
        weight = _weight(e)
        share = weight * bound / jnp.maximum(_norms_of(e), bound)
        return e.map(lambda uses, p: _factors.weighted_sum(uses, share, p)), weight.sum()

    blocks = over_blocks(sums, loss_of_each(loss, params, batch), params, batch)
    return like(params, averaged(blocks))


@jax.jit
def _gram(loss: Partial, params: PyTree, batch: PyTree) -> Array:
    products = lambda e: _sum(e.map(lambda uses, p: _factors.inner_products(uses, uses, p)))
    return over_blocks(products, loss_of_each(loss, params, batch), params, batch, whole=True)[0]


def _weight(e: Examples) -> Array:
    return jnp.where(e.counts, e.outputs[1], 0)


def _norms_of(e: Examples) -> Array:
    squares = _sum(e.map(_factors.square_norms))
    info = jnp.finfo(squares.dtype)
    in_range = jnp.isfinite(squares) & (squares > info.tiny / info.eps**2)

    def rescaled():
        norms = jnp.stack([x for x in e.map(_factors.norms) if x is not None])
        return jax.vmap(_tree.norm, 1)(norms)

    # computed only where a square has left the range of the dtype
    return jax.lax.cond(in_range.all(), lambda: _tree.sqrt(squares), rescaled)


def _sum(parts: list) -> Array:
    first, *others = [x for x in parts if x is not None]
    return sum(others, first)


def averaged(blocks: tuple) -> list:
    """Divide sums over blocks by the sum of the weights."""
    sums, weight = jax.tree.map(lambda x: x.sum(axis=0), blocks)
    return [x if x is None else x / weight for x in sums]


def like(params: PyTree, values: list) -> PyTree:
    """Put values in the places of the leaves of params; leaves with ``None`` stay unchanged."""
    leaves, treedef = jax.tree.flatten(params)
    merged = [leaf if x is None else x for x, leaf in zip(values, leaves)]
    return jax.tree.unflatten(treedef, merged)
