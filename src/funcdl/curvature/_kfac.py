"""Kronecker-factored approximations of the Gauss-Newton matrix."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _batching, _tree
from funcdl._typing import LossFunction, ModelFunction, PyTree
from funcdl.curvature._block_derivatives import vectors
from funcdl.curvature._block_diagonal import Diagonal, Product, eigenbases, leafwise
from funcdl.curvature._model_and_loss import split
from funcdl.operators import LinearOperator
from funcdl.per_example import KroneckerFactors, ggn_factors, ggn_moments

_SIZES = 1, *_batching.SIZES  # batch sizes at which examples are read, and checked not to interact


def kfac(
    f: ModelFunction, loss: LossFunction, params: PyTree, data: PyTree, *, max_bytes: int = 2**28
) -> LinearOperator:
    r"""Approximate the Gauss-Newton matrix by Kronecker products :math:`A \otimes B`.

    A is the mean of :math:`a a^\top` over the inputs that a parameter is multiplied with, and B
    that of the squared derivatives of the loss in the product, through the exact Hessian in the
    outputs (``per_example.ggn_factors`` has the formulas). Dense layers, einsum, convolutions
    (inputs are patches), loops over time and look-ups are read from the computation; no layer is
    registered.

    - It is block-diagonal: each leaf of params is a block, a bias too. Groups of a convolution and
      layers of a scan are blocks as well.
    - Positions that share a parameter (time, pixels, several products with it) are treated as
      examples, the convention "expand".
    - A leaf with any other use, such as a bias, a scale, or a table that is looked up *and*
      multiplied, has its exact block; so has the kernel of ``nn.Conv`` with at most 16 features on
      a CPU, which computes two windows at once.

    A block equals that of ``ggn`` for one example and one position, or where inputs and derivatives
    are independent, as in linear networks with squared error. Derivatives of products and solves in
    all arguments are right at any order, those of ``logdet`` to second order.

    Args:
        f: The model, as in ``ggn``.
        loss: The loss, as in ``ggn``; each example must contribute to ``loss(f(params, batch),
            batch)`` independently of the others.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, scanned in stored order.
        max_bytes: The largest allowed size of the factors of one leaf.

    Returns:
        A symmetric, positive semi-definite operator with ``solve`` and ``logdet``, which
        ``shift(damping)`` and ``block(where)`` have too; ``inv(damping)`` is a preconditioner for
        ``operators.cg``.

    Raises:
        ValueError: If the loss is not scalar, ``params`` is empty, examples interact
            (``ExamplesInteractError``), or the factors of a leaf are too large; the message names
            its path.
        TypeError: If a parameter or an output is not a float array; the message names its path.

    Source: Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML (2015); Bernacchia, Lengyel and Hennequin, "Exact natural gradient in deep
    linear networks", NeurIPS (2018); Eschenhagen et al., "Kronecker-factored approximate curvature
    for modern neural network architectures", NeurIPS (2023).

    >>> import jax.numpy as jnp
    >>> f = lambda w, x: x @ w
    >>> loss = lambda z, x: 0.5 * (z**2).sum(axis=1).mean()
    >>> K = kfac(f, loss, jnp.ones((2, 1)), jnp.asarray([[1.0, 2.0], [3.0, 0.0]]))
    >>> K.dense().tolist(), K.inv(damping=1.0).dense().round(3).tolist()
    ([[5.0, 1.0], [1.0, 2.0]], [[0.176, -0.059], [-0.059, 0.353]])
    """
    functions = split(f, loss, params, data, sizes=_SIZES)
    return from_factors(params, _factors(functions, params, data, max_bytes))


def ekfac(
    f: ModelFunction, loss: LossFunction, params: PyTree, data: PyTree, *, max_bytes: int = 2**28
) -> LinearOperator:
    r"""Approximate the Gauss-Newton matrix in the eigenbases of ``kfac``, by its diagonal there.

    :math:`V \mapsto Q_A (D \circ (Q_A^\top V Q_B)) Q_B^\top` with the exact D: of all matrices
    with these eigenvectors, it is the nearest one to a block, and never farther from it than
    ``kfac``. It takes two passes over the data.

    Its eigenvectors are differentiated too. Where a factor has a repeated eigenvalue other than 0,
    the operator depends on the choice of eigenvectors, and derivatives are NaN.

    Args:
        f: The model, as in ``kfac``.
        loss: The loss, as in ``kfac``.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``, scanned in stored order.
        max_bytes: The limit, as in ``kfac``.

    Returns:
        An operator like that of ``kfac``.

    Raises:
        ValueError: In the same cases as ``kfac``.
        TypeError: In the same cases as ``kfac``.

    Source: George et al., "Fast approximate natural gradient descent in a Kronecker-factored
    eigenbasis", NeurIPS (2018).

    >>> import jax.numpy as jnp
    >>> f = lambda w, x: jnp.tanh(x @ w)
    >>> loss = lambda z, x: 0.5 * (z**2).sum(axis=1).mean()
    >>> args = f, loss, jnp.asarray([[1.0]]), jnp.asarray([[0.0], [1.0]])
    >>> [build(*args).dense().round(4).item() for build in (kfac, ekfac)]
    [0.2941, 0.0882]
    """
    functions = split(f, loss, params, data, sizes=_SIZES)
    return leafwise(vectors(params), _diagonals(functions, params, data, max_bytes))


# Both factors are sums over examples and positions, which are read from the jaxpr of the model.
# They are added up in one pass over the data and divided by the total weight once, so that every
# example counts once for any sizes of the batches. The exact Hessian in the outputs stands between
# the derivatives in place of sampled labels: no key, no sampling error, and the result is
# differentiable. EK-FAC takes a second pass, because its diagonal is a mean of squares in the
# eigenbases of the finished factors. Sources: Martens and Grosse (2015); George et al. (2018).
@jax.jit
def from_factors(params: PyTree, factors: PyTree) -> LinearOperator:
    """Build the operator from a tree like ``params`` of ``KroneckerFactors``."""
    return leafwise(vectors(params), tuple(map(Product.of, _leaves(factors))))


@partial(jax.jit, static_argnames="max_bytes")
def _factors(functions: tuple, params: PyTree, data: PyTree, max_bytes: int) -> PyTree:
    sums = ggn_factors(*functions, max_bytes=max_bytes)
    return _averaged(lambda batch: sums(params, batch), data)


def _averaged(sums: Callable, data: PyTree) -> PyTree:
    totals = _batching.total(sums, data)
    return _tree.scale(1 / totals.weight, totals.total)


def _leaves(tree: PyTree) -> list[KroneckerFactors]:
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, KroneckerFactors))


@partial(jax.jit, static_argnames="max_bytes")
def _diagonals(
    functions: tuple, params: PyTree, data: PyTree, max_bytes: int
) -> tuple[Diagonal, ...]:
    factors = _leaves(_factors(functions, params, data, max_bytes))
    bases = tuple(map(eigenbases, factors))
    sums = ggn_moments(*functions)
    moments = jax.tree.leaves(_averaged(lambda batch: sums(params, batch, bases), data))
    # a second moment is negative only by rounding
    values = [jnp.maximum(x, 0) for x in moments]
    return tuple(map(Diagonal, [x.layout for x in factors], bases, values))
