r"""Kronecker factors of curvature, from one pass backward over all examples.

The gradient of one example in a matrix is :math:`a^\top g`, so that the block of a Gauss-Newton or
Fisher matrix is the mean of :math:`a a^\top \otimes g g^\top`; the product of the two means stands
for it (Martens and Grosse, 2015).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from funcdl import _tree
from funcdl._closure import as_partial
from funcdl._mean import Mean
from funcdl._typing import Array, PyTree
from funcdl.per_example._blocks import Examples, Pass, over_blocks
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
    r"""The block of one parameter as :math:`A \otimes B`, a pair for each matrix side by side.

    Attributes:
        layout: Where the parameter has its numbers: ``layout.matrices(x)`` is ``(B, in, out)``,
            ``layout.parameter`` the way back; static.
        a: ``(B, in, in)``, or its diagonal ``(B, in)`` for a table whose rows are looked up.
        b: ``(B, out, out)``.
    """

    layout: Layout
    a: Array
    b: Array


class KroneckerBases(NamedTuple):
    """A basis of each side of the matrices of one parameter.

    Attributes:
        a: ``(B, in, in)``, orthonormal columns; ``None`` is the identity.
        b: ``(B, out, out)``.
    """

    a: Array | None
    b: Array


def ggn_factors(f: Callable, loss: Callable, *, max_bytes: int = 2**28) -> Callable:
    r"""Compute the Kronecker factors of the Gauss-Newton matrix, a pair for each parameter.

    With weights w of the examples, T positions that share a parameter (time, pixels, further uses)
    and the Hessian H of the loss in the outputs

    .. math:: A = \sum_i \frac{w_i}{T} \sum_t a_{it} a_{it}^\top \Big/ \sum_i w_i, \qquad
              B = \sum_i w_i \sum_t g_{it}^\top H_i\, g_{it} \Big/ \sum_i w_i

    where the rows of g are the derivatives of the outputs: exact, no labels are drawn. What is
    used other than by products, as a bias, has A = 1 and B, its exact block.

    Args:
        f: ``f(params, batch) -> z``, in which examples do not see each other.
        loss: ``loss(z, batch)``: a scalar mean over the examples, or ``Mean``.
        max_bytes: Refuse the factors of a parameter beyond this size.

    Returns:
        ``factors(params, batch)``: a ``Mean``, not yet divided, whose total is a tree like
        ``params`` of ``KroneckerFactors``. It raises ``ValueError`` if the factors of a parameter
        are too large, and ``ExamplesInteractError`` if examples see each other.

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


def fisher_factors(loss: Callable, *, max_bytes: int = 2**28) -> Callable:
    r"""Compute the Kronecker factors of the empirical Fisher matrix, a pair for each parameter.

    As ``ggn_factors``, with the gradient of the loss of every example in place of the derivatives
    of its outputs: the second factor is :math:`B = \sum_i w_i \sum_t g_{it} g_{it}^\top / \sum_i
    w_i`. One pass backward.

    Args:
        loss: ``loss(params, batch)``: a scalar mean over the examples, or ``Mean``.
        max_bytes: As in ``ggn_factors``.

    Returns:
        ``factors(params, batch)``, as of ``ggn_factors``.

    >>> loss = lambda w, x: ((x @ w) ** 2).mean()
    >>> (factors, _) = fisher_factors(loss)(jnp.ones((2, 1)), jnp.asarray([[1.0, 3.0]]))
    >>> factors.a.tolist(), factors.b.tolist()
    ([[[1.0, 3.0], [3.0, 9.0]]], [[[64.0]]])
    """
    return partial(call, _fisher_factors, loss, max_bytes=max_bytes)


def ggn_moments(f: Callable, loss: Callable) -> Callable:
    r"""Compute the diagonal of the Gauss-Newton matrix in Kronecker bases.

    With the whole gradients :math:`G = \sum_t a_t^\top g_t` of the outputs, and H as in
    ``ggn_factors``

    .. math:: D = \sum_i w_i \sum_{rs} H_{i,rs}\, (Q_A^\top G_{ir} Q_B) \circ
              (Q_A^\top G_{is} Q_B) \Big/ \sum_i w_i

    Args:
        f: As in ``ggn_factors``.
        loss: As in ``ggn_factors``.

    Returns:
        ``moments(params, batch, bases)`` with a tree like ``params`` of ``KroneckerBases``: a
        ``Mean``, not yet divided, whose total is a tree like ``params`` of arrays
        ``(B, in, out)``. It raises ``ExamplesInteractError`` if examples see each other.

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


def _require_independent(f, loss, params, batch) -> None:
    require_independent(lambda params, batch: loss(f(params, batch), batch), params, batch)


def _outputs(f: Callable, loss: Callable) -> Pass:
    """Pull every output back, and hand on the Hessian of the loss in them."""

    def each(params, batch):
        z, bend, weight = bent(f, loss, params, batch)
        flat = ravel_pytree(z)[0]
        return z, jnp.eye(flat.size, dtype=flat.dtype), bend, weight

    return Pass(each, pull_all)


@partial(jax.jit, static_argnames="max_bytes")
def _ggn_factors(f, loss, params, batch, max_bytes) -> Mean:
    def sums(e: Examples):
        _, _, bends, weight = e.outputs
        bends, weight = _of_those_that_count(e, bends, weight)
        return _factors(e, bends, weight, params, max_bytes), weight

    return _summed(sums, _outputs(f, loss), params, batch)


@partial(jax.jit, static_argnames="max_bytes")
def _fisher_factors(loss, params, batch, max_bytes) -> Mean:
    def sums(e: Examples):
        (weight,) = _of_those_that_count(e, e.outputs[1])
        one = lambda use: use._replace(g=use.g[:, None])  # the loss is the only output
        e = e._replace(uses=[x and list(map(one, x)) for x in e.uses])
        return _factors(e, weight[:, None, None], weight, params, max_bytes), weight

    return _summed(sums, loss_of_each(loss, params, batch), params, batch)


@jax.jit
def _ggn_moments(f, loss, params, batch, bases) -> Mean:
    bases = jax.tree.leaves(bases, is_leaf=lambda x: isinstance(x, KroneckerBases))

    def sums(e: Examples):
        _, _, bends, weight = e.outputs
        bends, weight = _of_those_that_count(e, bends, weight)
        forms = zip(e.map(matrix_form), bases)
        return [x and diagonal(turned(x, *q), bends) for x, q in forms], weight

    return _summed(sums, _outputs(f, loss), params, batch)


def _of_those_that_count(e: Examples, *arrays: Array) -> list[Array]:
    """Zero what belongs to examples that only fill a block up."""
    return [jnp.where(e.counts.reshape(-1, *(1,) * (x.ndim - 1)), x, 0) for x in arrays]


def _summed(sums: Callable, way: Pass, params: PyTree, batch: PyTree) -> Mean:
    """Add up ``sums(examples) -> (list, weights)`` of all blocks."""
    found, weight = over_blocks(sums, way, params, batch)
    found = jax.tree.map(lambda x: x.sum(axis=0), found)
    return Mean(like(params, found), weight.sum())


def _factors(e: Examples, middle: Array, weight: Array, params, max_bytes: int) -> list:
    def one(x: MatrixForm, uses: list, name: str) -> KroneckerFactors:
        if x.bytes > max_bytes:
            rules = ", ".join(use.site.rule for use in uses)
            at = f" at path {name!r}" if name else ""
            kind = "its block, of no known factors, needs" if x.is_written_out else "factors need"
            raise ValueError(
                f"params{at} (used by {rules}): {kind} {x.bytes:,} bytes, the limit "
                f"max_bytes is {max_bytes:,}; hold this leaf fixed and take its block alone, "
                "curvature.ggn(...).block(path) or per_example.ggn_diagonal"
            )
        return KroneckerFactors(x.layout, *moments(x, middle, weight))

    forms = zip(e.map(matrix_form), e.uses, _tree.paths(params))
    return [x and one(x, uses, name) for x, uses, name in forms]
