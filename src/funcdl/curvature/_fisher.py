"""Fisher matrices: the second moment of the score, over labels of the data or of the model."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl import _mean
from funcdl._closure import hoisted
from funcdl._typing import PyTree
from funcdl.autodiff import require_independent
from funcdl.curvature._over_data import Leaves, over_data
from funcdl.curvature._split import split
from funcdl.linalg import LinearOperator


def fisher_empirical(f: Callable, loss: Callable, params: PyTree, data: PyTree) -> LinearOperator:
    r"""Take the second moment of the gradients of single examples, :math:`E[g_i g_i^\top]`.

    It is a Fisher matrix with the labels of the data in place of labels that the model draws, and
    no approximation of the Hessian (Kunstner, Balles and Hennig, "Limitations of the empirical
    Fisher approximation", NeurIPS 2019). Examples weigh as they do in the loss.

    Args:
        f: As in ``ggn``.
        loss: As in ``ggn``; examples do not see each other in ``loss(f(params, batch), batch)``.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, scanned in stored order.

    Returns:
        A symmetric, positive semi-definite operator on trees like ``params``.

    Raises:
        ValueError: If the loss is not scalar, there are no parameters, or examples see each other
            (``MixedError``).
        TypeError: If a parameter or an output is not a float array; its path is named.

    >>> import jax.numpy as jnp
    >>> f = lambda w, x: x @ w
    >>> loss = lambda z, x: 0.5 * (z**2).mean()
    >>> A = fisher_empirical(f, loss, jnp.ones(2), jnp.asarray([[1.0, 2.0], [3.0, 0.0]]))
    >>> A.dense().tolist()
    [[45.0, 9.0], [9.0, 18.0]]
    """
    functions = _of_single_examples(f, loss, params, data)
    return over_data(_empirical_product, functions, params, data, psd=True)


def fisher_exact(
    f: Callable, loss: Callable, params: PyTree, data: PyTree, *, outcomes: Callable
) -> LinearOperator:
    r"""Take the Fisher matrix of the model, :math:`E_{y \sim p(y \mid z)}[g_y g_y^\top]`, exactly.

    The loss of one example is :math:`-\log p(y \mid z)` up to a constant; the expectation is the
    sum over all its outcomes. Where z are the natural parameters of an exponential family, as the
    logits of a cross-entropy are, it equals ``ggn``, which is cheaper.

    Args:
        f: As in ``ggn``.
        loss: As in ``ggn``; examples do not see each other in ``loss(f(params, batch), batch)``.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, scanned in stored order.
        outcomes: ``outcomes(batch)``: all that might have been observed in place of the labels, a
            batch with a further leading axis on every leaf; ``every_label(c)`` for (x, label).

    Returns:
        A symmetric, positive semi-definite operator on trees like ``params``.

    Raises:
        ValueError: If the loss is not scalar, there are no parameters, or examples see each other
            (``MixedError``).
        TypeError: If a parameter or an output is not a float array; its path is named.

    Source: Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020).

    >>> from funcdl import losses
    >>> f = lambda w, batch: batch[0] @ w
    >>> loss = lambda z, batch: losses.softmax_cross_entropy(z, batch[1])
    >>> batch = jnp.asarray([[2.0]]), jnp.asarray([0])
    >>> fisher_exact(f, loss, jnp.zeros((1, 2)), batch, outcomes=every_label(2)).dense().tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    functions = _of_single_examples(f, loss, params, data)
    functions = (*functions, hoisted(outcomes, *((form,) for form in _mean.forms(data))))
    return over_data(_exact_product, functions, params, data, psd=True)


def every_label(classes: int) -> Callable:
    """Return what might have been observed in place of the labels of pairs (x, label).

    Args:
        classes: How many.

    Returns:
        ``outcomes(batch)`` for ``fisher_exact``.

    >>> every_label(3)((jnp.ones((2, 4)), jnp.asarray([0, 1])))[1].tolist()
    [[0, 0], [1, 1], [2, 2]]
    """
    return _every_label(classes)


@functools.cache  # the same function for the same number, so that operators compile once
def _every_label(classes: int) -> Callable:
    def outcomes(batch: tuple) -> tuple:
        x, label = batch
        labels = jnp.arange(classes, dtype=label.dtype)[:, None]
        many = lambda x: jnp.broadcast_to(x[None], (classes, *x.shape))
        return jax.tree.map(many, x), jnp.broadcast_to(labels, (classes, len(label)))

    return outcomes


def _of_single_examples(f: Callable, loss: Callable, params: PyTree, data: PyTree) -> tuple:
    functions = split(f, loss, params, data, sizes=(1,))
    both = lambda params, batch: loss(f(params, batch), batch)
    require_independent(both, params, _mean.forms(data)[0])
    return functions


def _exact_product(functions, leaves: Leaves, v: PyTree, batch: PyTree):
    f, loss, outcomes = functions
    outputs = lambda params: f(params, batch)
    z, z_dot = leaves.jvp(outputs, v)

    def surprise(z):  # -log p of every outcome of every example, (m, b)
        one = lambda pair: _mean.value(loss(*pair))
        return jax.vmap(lambda outcome: _mean.one_by_one(one, (z, outcome)))(outcomes(batch))

    nats, slopes = jax.jvp(surprise, (z,), (z_dot,))
    weight = _mean.one_by_one(lambda pair: _mean.weighted(loss(*pair), pair).weight, (z, batch))
    share = jax.nn.softmax(-nats, axis=0) * slopes * weight[None]
    return leaves.vjp(outputs, jax.vjp(surprise, z)[1](share)[0]), weight.sum()


def _empirical_product(functions, leaves: Leaves, v: PyTree, batch: PyTree):
    f, loss = functions

    def each(params):
        one = lambda batch: _mean.weighted(loss(f(params, batch), batch), batch)
        total, weight = _mean.one_by_one(one, batch)
        return total / jnp.where(weight == 0, 1, weight), weight

    (_, weight), (slopes, _) = leaves.jvp(each, v)
    return leaves.vjp(lambda params: each(params)[0], weight * slopes), weight.sum()
