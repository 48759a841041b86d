"""Gauss-Newton matrices: the curvature of the loss, through the outputs of the model."""

import jax

from funcdl import _batching
from funcdl._typing import Array, LossFunction, ModelFunction, PyTree
from funcdl.curvature._block_derivatives import Leaves
from funcdl.curvature._mean_operator import over_data, weighted
from funcdl.curvature._model_and_loss import split
from funcdl.curvature._stream_operator import Operator


def ggn(f: ModelFunction, loss: LossFunction, params: PyTree, data: PyTree) -> Operator:
    r"""Return the generalized Gauss-Newton matrix, :math:`J^\top\, \nabla^2_z \ell\, J`.

    J is the Jacobian of the outputs :math:`z = f(\theta)`. Any loss that is twice differentiable in
    the outputs works; nothing is registered. If the loss is the negative log-likelihood of an
    exponential family in its natural parameters (cross-entropy, squared error), this is the Fisher
    matrix of the model.

    Args:
        f: ``f(params, batch) -> z``, a pytree of float arrays; it may contain derivatives of the
            model in its inputs.
        loss: ``loss(z, batch)``: a scalar mean over the examples, or ``Mean(total, weight)``. It
            must be convex in z; otherwise the operator is not positive semi-definite, although it
            is marked so.
        params: Any pytree of float arrays.
        data: The data, as in ``hessian``.

    Returns:
        A symmetric, positive semi-definite operator on trees like ``params``; ``block``
        differentiates only the leaves that it selects.

    Raises:
        ValueError: If the loss is not scalar, is a sum over the examples, or ``params`` is empty.
        TypeError: If a parameter or an output is not a float array; the message names its path.

    Source: Schraudolph, "Fast curvature matrix-vector products", Neural Computation 14 (2002);
    Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020).

    >>> import jax.numpy as jnp
    >>> f = lambda w, x: x @ w
    >>> loss = lambda z, x: 0.5 * (z**2).mean()
    >>> ggn(f, loss, jnp.ones(2), jnp.asarray([[1.0, 2.0], [3.0, 0.0]])).dense().tolist()
    [[5.0, 1.0], [1.0, 2.0]]
    """
    functions = split(f, loss, params, _batching.first(data))
    return over_data(_ggn_product, functions, params, data, psd=True)


def _ggn_product(
    functions: tuple, leaves: Leaves, v: PyTree, batch: PyTree
) -> tuple[PyTree, Array]:
    f, loss = functions
    outputs = lambda params: f(params, batch)
    z, z_dot = leaves.jvp(outputs, v)
    gradient = jax.grad(weighted(loss, batch), has_aux=True)
    (_, weight), (cotangent, _) = jax.jvp(gradient, (z,), (z_dot,))
    return leaves.vjp(outputs, cotangent), weight
