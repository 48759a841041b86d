"""Derivatives of every single example, from one pass backward over all of them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _batching, _mean, _tree
from funcdl._closure import as_partial
from funcdl._typing import Array, PyTree
from funcdl.per_example import _factor_algebra as _factors
from funcdl.per_example._blocks import Examples, Pass, over_blocks
from funcdl.per_example._independence import require_independent


def grad(loss: Callable) -> Callable:
    r"""Take the gradient of the loss of every example, :math:`\nabla_\theta\, \ell_i(\theta)`.

    The loss of one example is that of the batch of one. Parameters are used in products of
    matrices, convolutions, look-ups and elementwise; whatever the model, one pass backward over
    the whole batch gives the factors of all these gradients (``uses`` lists them).

    Args:
        loss: ``loss(params, batch)``: a scalar mean over the examples, or ``Mean``.

    Returns:
        ``gradients(params, batch)``: a tree like ``params`` with a leading axis of examples.
        Leaves that are no floats are returned as they are. It raises ``ExamplesInteractError`` if
        examples see each other, naming the operation and its line.

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> grad(loss)(jnp.ones(2), jnp.asarray([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[6.0, 12.0], [0.0, 2.0]]
    """
    return partial(call, _gradients, loss)


def grad_norm(loss: Callable) -> Callable:
    r"""Measure the gradient of every example, :math:`\|\nabla_\theta\, \ell_i(\theta)\|`.

    No gradient is written out where a parameter is used once: it costs less than one gradient of
    the mean.

    Args:
        loss: As for ``grad``.

    Returns:
        ``norms(params, batch)``: ``(b,)``; it refuses as ``grad`` does.

    Source: Goodfellow, "Efficient per-example gradient computations" (2015).

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> grad_norm(loss)(jnp.ones(2), jnp.asarray([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [70.0, 2.0]
    """
    return partial(call, _norms, loss)


def grad_second_moment(loss: Callable) -> Callable:
    r"""Average the squared gradients of the examples, :math:`\sum_i w_i g_i^2 / \sum_i w_i`.

    The diagonal of the empirical Fisher matrix, at the cost of about one gradient. Examples weigh
    as they do in the loss: alike, or by the weight of ``Mean``.

    Args:
        loss: As for ``grad``.

    Returns:
        ``moment(params, batch)``: a tree like ``params``; it refuses as ``grad`` does.

    Source: Dangel, Kunstner and Hennig, "BackPACK: packing more into backprop", ICLR (2020).

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> grad_second_moment(loss)(jnp.ones(2), jnp.asarray([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [18.0, 74.0]
    """
    return partial(call, _moment, loss)


def clipped_grad(loss: Callable, bound: float | Array) -> Callable:
    r"""Average gradients of bounded length.

    .. math:: \sum_i w_i\, g_i \min(1, c / \|g_i\|) \Big/ \sum_i w_i

    One example alone moves it by no more than its share of c, which differential privacy asks for.

    Args:
        loss: As for ``grad``.
        bound: c, the largest length of the gradient of one example; positive.

    Returns:
        ``gradient(params, batch)``: a tree like ``params``; it refuses as ``grad``
        does.

    Raises:
        ValueError: If the bound is not positive.

    Source: Abadi et al., "Deep learning with differential privacy", CCS (2016).

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> clipped_grad(loss, 5.0)(jnp.ones(2), jnp.asarray([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [1.5, 3.0]
    """
    if isinstance(bound, (int, float)) and not bound > 0:
        raise ValueError(f"bound is {bound}; expected a positive length")
    return partial(call, _clipped, loss, bound=bound)


def gram(loss: Callable) -> Callable:
    r"""Multiply the gradients of all pairs of examples, :math:`\langle g_i, g_j \rangle`.

    Its eigenvalues are those of the empirical Fisher matrix, times the number of examples. All
    factors of the batch are held at once.

    Args:
        loss: As for ``grad``.

    Returns:
        ``gram(params, batch)``: ``(b, b)``; it refuses as ``grad`` does.

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> gram(loss)(jnp.ones(2), jnp.asarray([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[180.0, 24.0], [24.0, 4.0]]
    """
    return partial(call, _gram, loss)


def call(f: Callable, loss: Callable, params: PyTree, batch: PyTree, **options):
    """Check the arguments, and hand a loss over as a pytree."""
    _check(loss, params, batch)
    return f(as_partial(loss), params, batch, **options)


def _check(loss, params, batch) -> None:
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; expected a function loss(params, batch)")
    if not _batching.examples(batch):
        raise ValueError("batch has no examples")
    dtypes = map(jnp.result_type, jax.tree.leaves(params))
    if not any(jnp.issubdtype(d, jnp.floating) for d in dtypes):
        raise ValueError("params has no leaves of floats; there is nothing to differentiate")


def loss_of_each(loss: Callable, params: PyTree, batch: PyTree) -> Pass:
    require_independent(loss, params, batch)

    def each(params, batch):
        mean = _mean.weighted(loss(params, batch), batch)
        return mean.total / jnp.where(mean.weight == 0, 1, mean.weight), mean.weight

    return Pass(each, lambda y, pullback: pullback((jnp.ones_like(y[0]), jnp.zeros_like(y[1]))))


@jax.jit
def _gradients(loss, params, batch):
    n, way = _batching.examples(batch), loss_of_each(loss, params, batch)
    found = over_blocks(lambda e: e.map(_factors.gradients), way, params, batch)
    return like(params, [x if x is None else x.reshape(-1, *x.shape[2:])[:n] for x in found])


@jax.jit
def _norms(loss, params, batch):
    found = over_blocks(_square_norms, loss_of_each(loss, params, batch), params, batch)
    return _tree.sqrt(found.reshape(-1)[: _batching.examples(batch)])


@jax.jit
def _moment(loss, params, batch):
    def sums(e: Examples):
        weight = _weight(e)
        return e.map(lambda uses, p: _factors.second_moment(uses, weight, p)), weight.sum()

    found = over_blocks(sums, loss_of_each(loss, params, batch), params, batch)
    return like(params, averaged(found))


@jax.jit
def _clipped(loss, params, batch, bound):
    def sums(e: Examples):
        weight = _weight(e)
        share = weight * bound / jnp.maximum(_tree.sqrt(_square_norms(e)), bound)
        return e.map(lambda uses, p: _factors.weighted_sum(uses, share, p)), weight.sum()

    found = over_blocks(sums, loss_of_each(loss, params, batch), params, batch)
    return like(params, averaged(found))


@jax.jit
def _gram(loss, params, batch):
    products = lambda e: _sum(e.map(lambda uses, p: _factors.inner_products(uses, uses, p)))
    return over_blocks(products, loss_of_each(loss, params, batch), params, batch, whole=True)[0]


def _weight(e: Examples) -> Array:
    return jnp.where(e.counts, e.outputs[1], 0)


def _square_norms(e: Examples) -> Array:
    return _sum(e.map(_factors.square_norms))


def _sum(parts: list) -> Array:
    first, *others = [x for x in parts if x is not None]
    return sum(others, first)


def averaged(found) -> list:
    """Divide sums over blocks by the sum of the weights."""
    sums, weight = jax.tree.map(lambda x: x.sum(axis=0), found)
    return [x if x is None else x / weight for x in sums]


def like(params: PyTree, found: list) -> PyTree:
    """Give what was found for the leaves of params its place; others stay what they are."""
    leaves, treedef = jax.tree.flatten(params)
    return jax.tree.unflatten(treedef, [leaf if x is None else x for x, leaf in zip(found, leaves)])
