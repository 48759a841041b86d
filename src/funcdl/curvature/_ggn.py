"""Gauss-Newton and Fisher matrices: the curvature of the loss, seen through the outputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl import _mean, _tree
from funcdl._closure import hoisted
from funcdl._typing import PyTree
from funcdl.autodiff import require_independent
from funcdl.curvature._over_data import (
    Leaves,
    check_function,
    check_scalar,
    over_data,
    weighted,
)
from funcdl.linalg import LinearOperator


def ggn(f: Callable, loss: Callable, params: PyTree, data: PyTree) -> LinearOperator:
    r"""Take the generalised Gauss-Newton matrix, :math:`J^\top\, \nabla^2_z \ell\, J`.

    J is the Jacobian of the outputs :math:`z = f(\theta)`. Any loss of the outputs that can be
    differentiated twice will do; nothing is registered. For a loss that is the negative
    log-likelihood of an exponential family in its natural parameters (cross-entropy, squared
    error) it is the Fisher matrix of the model.

    Args:
        f: ``f(params, batch) -> z``, a pytree of float arrays; derivatives of the model in its
            inputs may be part of it.
        loss: ``loss(z, batch)``: a scalar mean over the examples, or ``Mean(total, weight)``;
            convex in z, else the operator is not positive semi-definite as it is marked.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, scanned in stored order.

    Returns:
        A symmetric, positive semi-definite operator on trees like ``params``; ``block``
        differentiates only the leaves it names.

    Raises:
        ValueError: If the loss is not scalar, or there are no parameters.
        TypeError: If a parameter or an output is not a float array; its path is named.

    Source: Schraudolph, "Fast curvature matrix-vector products", Neural Computation 14 (2002);
    Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020).

    >>> import jax.numpy as jnp
    >>> f = lambda w, x: x @ w
    >>> loss = lambda z, x: 0.5 * (z**2).mean()
    >>> ggn(f, loss, jnp.ones(2), jnp.asarray([[1.0, 2.0], [3.0, 0.0]])).dense().tolist()
    [[5.0, 1.0], [1.0, 2.0]]
    """
    return over_data(_ggn_product, split(f, loss, params, data), params, data, psd=True)


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
    functions = split(f, loss, params, data, sizes=(1,))
    both = lambda params, batch: loss(f(params, batch), batch)
    require_independent(both, params, _mean.forms(data)[0])
    return over_data(_empirical_product, functions, params, data, psd=True)


def split(
    f: Callable, loss: Callable, params: PyTree, data: PyTree, *, sizes: tuple[int, ...] = ()
) -> tuple:
    """Check a model and a loss of its outputs, and hoist what they captured.

    Args:
        f: ``f(params, batch) -> z``.
        loss: ``loss(z, batch)``.
        params: Any pytree of float arrays.
        data: One batch or ``Batches``.
        sizes: Further numbers of examples with which both will be called.

    Returns:
        Both as ``Partial``.

    Raises:
        ValueError: If the loss is not scalar or there is no data.
    """
    check_function(f, "f", "params, batch")
    check_function(loss, "loss", "z, batch")
    _tree.check_floating(params, "params")
    if data is None:
        raise ValueError("data is None; expected one batch of arrays, or Batches")
    forms = _mean.forms(data)
    if not _mean.examples(forms[0]):
        raise ValueError("data has no examples")
    forms += [_mean.resized(forms[0], size) for size in sizes]
    f = hoisted(f, *((params, form) for form in forms))
    outputs = [jax.eval_shape(f, params, form) for form in forms]
    _tree.check_floating(outputs[0], "z = f(params, batch)")
    loss = hoisted(loss, *zip(outputs, forms))
    check_scalar(jax.eval_shape(loss, outputs[0], forms[0]))
    return f, loss


def _ggn_product(functions, leaves: Leaves, v: PyTree, batch: PyTree):
    f, loss = functions
    outputs = lambda params: f(params, batch)
    z, z_dot = leaves.jvp(outputs, v)
    gradient = jax.grad(weighted(loss, batch), has_aux=True)
    (_, weight), (cotangent, _) = jax.jvp(gradient, (z,), (z_dot,))
    return leaves.vjp(outputs, cotangent), weight


def _empirical_product(functions, leaves: Leaves, v: PyTree, batch: PyTree):
    f, loss = functions

    def each(params):
        one = lambda batch: _mean.weighted(loss(f(params, batch), batch), batch)
        total, weight = _mean.one_by_one(one, batch)
        return total / jnp.where(weight == 0, 1, weight), weight

    (_, weight), (slopes, _) = leaves.jvp(each, v)
    return leaves.vjp(lambda params: each(params)[0], weight * slopes), weight.sum()
