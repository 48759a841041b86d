"""Fisher matrices: the second moment of the score, over labels of the data or of the model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _batching, _mean, _tree
from funcdl._check import check_key
from funcdl._closure import hoisted
from funcdl._typing import Array, ArrayLike, Key, LossFunction, ModelFunction, PyTree
from funcdl.curvature._block_derivatives import Leaves, narrow_unit
from funcdl.curvature._mean_operator import over_data
from funcdl.curvature._model_and_loss import split
from funcdl.curvature._stream_operator import Operator
from funcdl.per_example import require_independent

_Sum = tuple[PyTree, Array]  # a sum over the examples of a batch, and their weight


def fisher_empirical(
    f: ModelFunction, loss: LossFunction, params: PyTree, data: PyTree
) -> Operator:
    r"""Return the second moment of the gradients of single examples, :math:`E[g_i g_i^\top]`.

    It is a Fisher matrix with the labels of the data instead of labels drawn from the model, and
    does not approximate the Hessian (Kunstner, Balles and Hennig, "Limitations of the empirical
    Fisher approximation", NeurIPS 2019). Examples are weighted as in the loss.

    Args:
        f: The model, as in ``ggn``.
        loss: The loss, as in ``ggn``; each example must contribute to ``loss(f(params, batch),
            batch)`` independently of the others.
        params: Any pytree of float arrays.
        data: The data, as in ``hessian``.

    Returns:
        A symmetric, positive semi-definite operator on trees like ``params``.

    Raises:
        ValueError: If the loss is not scalar, ``params`` is empty, or examples interact
            (``ExamplesInteractError``).
        TypeError: If a parameter or an output is not a float array; the message names its path.

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
    f: ModelFunction, loss: LossFunction, params: PyTree, data: PyTree, *, outcomes: Callable
) -> Operator:
    r"""Return the exact Fisher matrix of the model, :math:`E_{y \sim p(y \mid z)}[g_y g_y^\top]`.

    The loss of one example is :math:`-\log p(y \mid z)` up to a constant; the expectation is the
    sum over all its outcomes. Where z are the natural parameters of an exponential family, as the
    logits of a cross-entropy are, it equals ``ggn``, which is cheaper.

    Args:
        f: The model, as in ``ggn``.
        loss: The loss, as in ``ggn``; each example must contribute to ``loss(f(params, batch),
            batch)`` independently of the others.
        params: Any pytree of float arrays.
        data: The data, as in ``hessian``.
        outcomes: ``outcomes(batch)`` returns all possible observations instead of the labels, as a
            batch with an additional leading axis on every leaf; ``every_label(c)`` for (x, label).

    Returns:
        A symmetric, positive semi-definite operator on trees like ``params``.

    Raises:
        ValueError: If the loss is not scalar, ``params`` is empty, or examples interact
            (``ExamplesInteractError``).
        TypeError: If a parameter or an output is not a float array; the message names its path.

    Source: Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020).

    >>> from funcdl import curvature, losses
    >>> f = lambda w, batch: batch[0] @ w
    >>> loss = lambda z, batch: losses.softmax_cross_entropy(z, batch[1])
    >>> batch = jnp.asarray([[2.0]]), jnp.asarray([0])
    >>> every = curvature.every_label(2)
    >>> fisher_exact(f, loss, jnp.zeros((1, 2)), batch, outcomes=every).dense().tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    functions = _of_single_examples(f, loss, params, data)
    functions = (
        *functions,
        hoisted(outcomes, *((form,) for form in _batching.forms(_batching.first(data)))),
    )
    return over_data(_exact_product, functions, params, data, psd=True)


def fisher_mc(
    f: ModelFunction,
    loss: LossFunction,
    params: PyTree,
    data: PyTree,
    *,
    key: Key[Array, ""],
    draw: Callable,
) -> Operator:
    r"""Estimate the Fisher matrix of the model, with outcomes drawn from the model.

    An unbiased estimate of ``fisher_exact`` where outcomes cannot be summed over. The draws of an
    example depend only on its index in the data: they are the same in every product and for any
    split. Derivatives in the parameters hold the outcomes fixed.

    Args:
        f: The model, as in ``ggn``.
        loss: The loss, as in ``ggn``; for one example :math:`-\log p(y \mid z)` up to a constant.
        params: Any pytree of float arrays.
        data: The data, as in ``hessian``.
        key: The random key for the outcomes.
        draw: ``draw(key, z, batch)`` for one example, a batch of one: returns m possible
            observations instead of the labels, as a batch with an additional leading axis m on
            every leaf; ``draw_label(m)`` for (x, label) and logits z.

    Returns:
        A symmetric, positive semi-definite operator on trees like ``params``.

    Raises:
        ValueError: If the loss is not scalar, ``params`` is empty, or examples interact
            (``ExamplesInteractError``).
        TypeError: If a parameter or an output is not a float array, or the key is not typed.

    Source: Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML (2015).

    >>> from funcdl import curvature, losses
    >>> f = lambda w, batch: batch[0] @ w
    >>> loss = lambda z, batch: losses.softmax_cross_entropy(z, batch[1])
    >>> batch = jnp.asarray([[2.0]]), jnp.asarray([0])
    >>> key, draw = jax.random.key(0), curvature.draw_label(1)
    >>> fisher_mc(f, loss, jnp.zeros((1, 2)), batch, key=key, draw=draw).dense().tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    check_key(key)
    functions = _of_single_examples(f, loss, params, data)
    form = _batching.resized(_batching.forms(_batching.first(data))[0], 1)
    draw = hoisted(draw, (key, jax.eval_shape(functions[0], params, form), form))
    functions = *functions, Partial(_drawn, draw, key)
    return over_data(_sampled_product, functions, params, _batching.numbered(data), psd=True)


def _drawn(draw: Callable, key: Key[Array, ""], z: PyTree, batch: PyTree, index: Array) -> PyTree:
    """Draw for every example by a key of its own: a leading axis of draws, then one of examples."""

    def one(numbered):
        z, batch, index = numbered
        drawn = draw(jax.random.fold_in(key, index[0]), z, batch)
        return jax.tree.map(_alone, drawn, batch)

    many = _batching.one_by_one(one, (z, batch, index))
    # leaves without an axis of examples are the same for all of them
    to_front = lambda x, like: jnp.moveaxis(x, 0, 1) if jnp.ndim(like) else x[0]
    return jax.tree.map(to_front, many, batch)


def _alone(drawn: Array, like: ArrayLike) -> Array:
    """Extract the draws ``(m, ...)`` of one example from those of a batch of one."""
    if not jnp.ndim(like):
        return drawn
    if drawn.ndim < 2 or drawn.shape[1] != 1:
        raise ValueError(
            f"draw returned a leaf of shape {drawn.shape} for one of {jnp.shape(like)}; expected "
            "(m, 1, ...): a leading axis of draws before the axis of the one example"
        )
    return drawn[:, 0]


def _of_single_examples(
    f: ModelFunction, loss: LossFunction, params: PyTree, data: PyTree
) -> tuple:
    functions = split(f, loss, params, _batching.first(data), sizes=(1,))
    both = lambda params, batch: loss(f(params, batch), batch)
    require_independent(both, params, _batching.forms(_batching.first(data))[0])
    return functions


def _exact_product(functions: tuple, leaves: Leaves, v: PyTree, batch: PyTree) -> _Sum:
    f, loss, outcomes = functions
    functions = f, loss, lambda z: outcomes(batch)
    share = lambda nats: jax.nn.softmax(-nats, axis=0)
    return _second_moment(functions, share, leaves, v, batch)


def _empirical_product(functions: tuple, leaves: Leaves, v: PyTree, batch: PyTree) -> _Sum:
    f, loss = functions
    observed = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    functions = f, loss, lambda z: observed
    return _second_moment(functions, jnp.ones_like, leaves, v, batch)


def _sampled_product(functions: tuple, leaves: Leaves, v: PyTree, numbered: tuple) -> _Sum:
    f, loss, drawn = functions
    batch, index = numbered
    functions = f, loss, lambda z: drawn(z, batch, index)
    share = lambda nats: jnp.full_like(nats, 1 / len(nats))
    return _second_moment(functions, share, leaves, v, batch)


# One vjp with all scores at once: the product g gᵀ v of an outcome is its gradient times its slope
# along v, so the slopes become cotangents of `nats`, weighted, and no score is ever formed.
def _second_moment(
    functions: tuple, share: Callable, leaves: Leaves, v: PyTree, batch: PyTree
) -> _Sum:
    """Sum ``weight * share * g gᵀ v`` over the examples and their possible outcomes."""
    f, loss, outcomes = functions
    outputs = lambda params: f(params, batch)
    z, z_dot = leaves.jvp(outputs, v)
    many = outcomes(jax.lax.stop_gradient(z))

    def nats(z):  # -log p of every outcome of every example, (m, b)
        one = lambda pair: _safe(_mean.weighted(loss(*pair), pair))
        return jax.vmap(lambda outcome: _batching.one_by_one(one, (z, outcome)))(many)

    value, slopes = jax.jvp(nats, (z,), (z_dot,))
    weight = _batching.one_by_one(lambda pair: _mean.weighted(loss(*pair), pair).weight, (z, batch))
    shares = share(value) * slopes
    unit = narrow_unit(shares)  # squares of gradients leave the range of float16
    shares = _tree.widened(shares) * weight[None]
    cotangent = jax.vjp(nats, z)[1]((shares / unit).astype(value.dtype))[0]
    return _tree.scale(unit, leaves.vjp(outputs, cotangent)), weight.sum()


def _safe(mean: _mean.Mean) -> Array:
    return mean.total / jnp.where(mean.weight == 0, 1, mean.weight)
