r"""Kronecker factors of curvature, from one backward pass over all examples.

The gradient of one example in a matrix is :math:`a^\top g`, so the block of a Gauss-Newton or
Fisher matrix is the mean of :math:`a a^\top \otimes g g^\top`; it is approximated by the product of
the two means (Martens and Grosse, 2015).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._check import in_two_steps
from funcdl._closure import as_partial
from funcdl._mean import Mean
from funcdl._typing import Array, LossFunction, ModelFunction, PyTree
from funcdl.per_example._blocks import Examples, Pass, over_blocks
from funcdl.per_example._factor_algebra import Factors
from funcdl.per_example._gradients import call, like, loss_of_each
from funcdl.per_example._independence import require_independent
from funcdl.per_example._jacobians import bent, pull_all
from funcdl.per_example._matrix_form import (
    Layout,
    MatrixForm,
    diagonal,
    matrix_form,
    moments,
    turned,
)


class KroneckerFactors(NamedTuple):
    r"""The block of one parameter as :math:`A \otimes B`, one pair per stacked matrix.

    Attributes:
        layout: The positions of the parameter's entries: ``layout.matrices(x)`` is
            ``(B, in, out)``, and ``layout.parameter`` is the inverse; static.
        a: ``(B, in, in)``, or its diagonal ``(B, in)`` for a table whose rows are looked up.
        b: ``(B, out, out)``.
    """

    layout: Layout
    a: Array
    b: Array


class KroneckerBases(NamedTuple):
    """A basis for each side of the matrices of one parameter.

    Attributes:
        a: ``(B, in, in)``, orthonormal columns; ``None`` means the identity.
        b: ``(B, out, out)``, orthonormal columns.
    """

    a: Array | None
    b: Array


@in_two_steps
def ggn_factors(f: ModelFunction, loss: LossFunction, *, max_bytes: int = 2**28) -> Callable:
    r"""Compute the Kronecker factors of the Gauss-Newton matrix, one pair per parameter.

    With weights w of the examples, T positions that share a parameter (time, pixels, further uses)
    and the Hessian H of the loss in the outputs

    .. math:: A = \sum_i \frac{w_i}{T} \sum_t a_{it} a_{it}^\top \Big/ \sum_i w_i, \qquad
              B = \sum_i w_i \sum_t g_{it}^\top H_i\, g_{it} \Big/ \sum_i w_i

    where the rows of g are the derivatives of the outputs: they are exact, and no labels are drawn.
    A parameter with any use other than products, such as a bias, has A = 1 and its exact block B.

    Args:
        f: ``f(params, batch) -> z``, in which examples do not interact.
        loss: ``loss(z, batch)``: a scalar mean over the examples, or ``Mean``.
        max_bytes: The largest allowed size of the factors of a parameter.

    Returns:
        A function ``factors(params, batch)`` that returns a ``Mean``, before the division, whose
        total is a tree like ``params`` of ``KroneckerFactors``. It raises ``ValueError`` if the
        factors of a parameter are too large, and ``ExamplesInteractError`` if examples interact.

    Source: Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML (2015); Grosse and Martens (2016) for convolutions; Eschenhagen et al.,
    "Kronecker-factored approximate curvature for modern neural network architectures", NeurIPS
    (2023), whose convention for positions is "expand".

    >>> f, loss = lambda w, x: x @ w, lambda z, x: (z**2).sum(axis=1).mean()
    >>> (factors, weight) = ggn_factors(f, loss)(jnp.ones((2, 1)), jnp.asarray([[1.0, 3.0]]))
    >>> factors.a.tolist(), factors.b.tolist(), weight.item()
    ([[[1.0, 3.0], [3.0, 9.0]]], [[[2.0]]], 1.0)
    """

    def factors(params: PyTree, batch: PyTree) -> Mean:
        _require_independent(f, loss, params, batch)
        return _ggn_factors(as_partial(f), as_partial(loss), params, batch, max_bytes)

    return factors


@in_two_steps
def fisher_factors(loss: LossFunction, *, max_bytes: int = 2**28) -> Callable:
    r"""Compute the Kronecker factors of the empirical Fisher matrix, one pair per parameter.

    Like ``ggn_factors``, with the gradient of the loss of every example instead of the derivatives
    of its outputs: the second factor is :math:`B = \sum_i w_i \sum_t g_{it} g_{it}^\top / \sum_i
    w_i`. It takes one backward pass.

    Args:
        loss: ``loss(params, batch)``: a scalar mean over the examples, or ``Mean``.
        max_bytes: The limit, as in ``ggn_factors``.

    Returns:
        A function ``factors(params, batch)``, like that of ``ggn_factors``.

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> (factors, _) = fisher_factors(loss)(jnp.ones((2, 1)), jnp.asarray([[1.0, 3.0]]))
    >>> factors.a.tolist(), factors.b.tolist()
    ([[[1.0, 3.0], [3.0, 9.0]]], [[[64.0]]])
    """
    return partial(call, _fisher_factors, loss, max_bytes=max_bytes)


@in_two_steps
def ggn_moments(f: ModelFunction, loss: LossFunction) -> Callable:
    r"""Compute the diagonal of the Gauss-Newton matrix in Kronecker bases.

    For the full gradients :math:`G = \sum_t a_t^\top g_t` of the outputs, and H as in
    ``ggn_factors``

    .. math:: D = \sum_i w_i \sum_{rs} H_{i,rs}\, (Q_A^\top G_{ir} Q_B) \circ
              (Q_A^\top G_{is} Q_B) \Big/ \sum_i w_i

    Args:
        f: The model, as in ``ggn_factors``.
        loss: The loss, as in ``ggn_factors``.

    Returns:
        A function ``moments(params, batch, bases)`` of a tree like ``params`` of
        ``KroneckerBases``. It returns a ``Mean``, before the division, whose total is a tree like
        ``params`` of arrays ``(B, in, out)``, and raises ``ExamplesInteractError`` if examples
        interact.

    Source: George et al., "Fast approximate natural gradient descent in a Kronecker-factored
    eigenbasis", NeurIPS (2018).

    >>> f, loss = lambda w, x: x @ w, lambda z, x: (z**2).sum(axis=1).mean()
    >>> bases = KroneckerBases(None, jnp.ones((1, 1, 1)))
    >>> (moments, _) = ggn_moments(f, loss)(jnp.ones((2, 1)), jnp.asarray([[1.0, 3.0]]), bases)
    >>> moments.tolist()
    [[[2.0], [18.0]]]
    """

    def moments(params: PyTree, batch: PyTree, bases: PyTree) -> Mean:
        _require_independent(f, loss, params, batch)
        return _ggn_moments(as_partial(f), as_partial(loss), params, batch, bases)

    return moments


def _require_independent(f: Callable, loss: Callable, params: PyTree, batch: PyTree) -> None:
    require_independent(lambda params, batch: loss(f(params, batch), batch), params, batch)


def _outputs(f: Callable, loss: Callable) -> Pass:
    """Pull every output back, and pass on the Hessian of the loss in the outputs."""

    def each(params, batch):
        z, bend, weight = bent(f, loss, params, batch)
        flat = ravel_pytree(z)[0]
        return z, jnp.eye(flat.size, dtype=flat.dtype), bend, weight

    return Pass(each, pull_all)


@partial(jax.jit, static_argnames="max_bytes")
def _ggn_factors(f: Partial, loss: Partial, params: PyTree, batch: PyTree, max_bytes: int) -> Mean:
    def sums(e: Examples):
        _, _, bends, weight = e.outputs
        bends, weight = _of_those_that_count(e, bends, weight)
        return _factors(e, bends, weight, params, max_bytes), weight

    return _summed(sums, _outputs(f, loss), params, batch)


@partial(jax.jit, static_argnames="max_bytes")
def _fisher_factors(loss: Partial, params: PyTree, batch: PyTree, max_bytes: int) -> Mean:
    def sums(e: Examples):
        (weight,) = _of_those_that_count(e, e.outputs[1])
        one = lambda use: use._replace(g=use.g[:, None])  # the loss is the only output
        e = e._replace(uses=[x and list(map(one, x)) for x in e.uses])
        return _factors(e, weight[:, None, None], weight, params, max_bytes), weight

    return _summed(sums, loss_of_each(loss, params, batch), params, batch)


@jax.jit
def _ggn_moments(f: Partial, loss: Partial, params: PyTree, batch: PyTree, bases: PyTree) -> Mean:
    bases = jax.tree.leaves(bases, is_leaf=lambda x: isinstance(x, KroneckerBases))

    def sums(e: Examples):
        _, _, bends, weight = e.outputs
        bends, weight = _of_those_that_count(e, bends, weight)
        forms = zip(e.map(matrix_form), bases)
        return [x and diagonal(turned(x, *q), bends) for x, q in forms], weight

    return _summed(sums, _outputs(f, loss), params, batch)


def _of_those_that_count(e: Examples, *arrays: Array) -> list[Array]:
    """Set the values of examples that only fill up a block to 0."""
    return [jnp.where(e.counts.reshape(-1, *(1,) * (x.ndim - 1)), x, 0) for x in arrays]


def _summed(sums: Callable, way: Pass, params: PyTree, batch: PyTree) -> Mean:
    """Sum ``sums(examples) -> (list, weights)`` over all blocks."""
    totals, weight = over_blocks(sums, way, params, batch)
    totals = jax.tree.map(lambda x: x.sum(axis=0), totals)
    return Mean(like(params, totals), weight.sum())


def _factors(e: Examples, middle: Array, weight: Array, params: PyTree, max_bytes: int) -> list:
    def one(x: MatrixForm, uses: list[Factors], name: str) -> KroneckerFactors:
        if x.bytes > max_bytes:
            rules = ", ".join(use.site.rule for use in uses)
            at = f" at path {name!r}" if name else ""
            kind = (
                "its block has no known factors and needs" if x.is_written_out else "factors need"
            )
            raise ValueError(
                f"params{at} (used by {rules}): {kind} {x.bytes:,} bytes, but the limit "
                f"max_bytes is {max_bytes:,}; hold this leaf fixed and compute its block "
                "separately, with curvature.ggn(...).block(path) or per_example.ggn_diagonal"
            )
        a, b = moments(x, middle, weight)
        return KroneckerFactors(x.layout, a, b)

    forms = zip(e.map(matrix_form), e.uses, _tree.paths(params))
    return [x and one(x, uses or [], name) for x, uses, name in forms]
