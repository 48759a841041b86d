"""Jacobians of the outputs of every single example, from one backward pass per output."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from funcdl import _mean
from funcdl._check import in_two_steps
from funcdl._closure import as_partial
from funcdl._typing import Array, LossFunction, ModelFunction, PyTree
from funcdl.per_example import _factor_algebra as _factors
from funcdl.per_example._blocks import Examples, Pass, over_blocks
from funcdl.per_example._factor_algebra import product
from funcdl.per_example._gradients import averaged, like
from funcdl.per_example._independence import require_independent


@in_two_steps
def jacobian_gram(f: ModelFunction) -> Callable:
    r"""Compute the products of Jacobians of all pairs, :math:`\nabla z_{ic} \cdot \nabla z'_{jd}`.

    This is the neural tangent kernel. Where a parameter is used once, and at one position, its
    Jacobian is not formed.

    Args:
        f: ``f(params, batch) -> z``, ``(b, c)``, in which examples do not interact.

    Returns:
        A function ``gram(params, batch, other=batch)`` that returns ``(b, c, b', c)``. It raises
        ``ExamplesInteractError`` if examples interact, with the operation and its line.

    Source: Jacot, Gabriel and Hongler, "Neural tangent kernel", NeurIPS (2018); Novak,
    Sohl-Dickstein and Schoenholz, "Fast finite width neural tangent kernel", ICML (2022).

    >>> f = lambda w, x: x @ w
    >>> x = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])
    >>> jacobian_gram(f)(jnp.ones((2, 1)), x)[:, 0, :, 0].tolist()
    [[5.0, 3.0], [3.0, 9.0]]
    """

    def gram(params: PyTree, batch: PyTree, other: PyTree = None) -> Array:
        require_independent(f, params, batch)
        return _gram(as_partial(f), params, batch, other)

    return gram


@in_two_steps
def ggn_diagonal(f: ModelFunction, loss: LossFunction) -> Callable:
    r"""Compute the diagonal of the Gauss-Newton matrix, :math:`J^\top\, \nabla^2_z \ell\, J`.

    It is exact, for any loss that is twice differentiable in the outputs, and takes one backward
    pass per output.

    Args:
        f: ``f(params, batch) -> z``, ``(b, c)``, in which examples do not interact.
        loss: ``loss(z, batch)``: a scalar mean over the examples, or ``Mean``.

    Returns:
        A function ``diagonal(params, batch)`` that returns a tree like ``params``. It raises
        ``ExamplesInteractError`` if examples interact, with the operation and its line.

    Source: Dangel, Kunstner and Hennig, "BackPACK: packing more into backprop", ICLR (2020).

    >>> f, loss = lambda w, x: x @ w, lambda z, x: (z**2).sum(axis=1).mean()
    >>> x = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])
    >>> ggn_diagonal(f, loss)(jnp.ones((2, 1)), x).tolist()
    [[10.0], [4.0]]
    """

    def diagonal(params: PyTree, batch: PyTree) -> PyTree:
        both = lambda params, batch: loss(f(params, batch), batch)
        require_independent(both, params, batch)
        return _diagonal(as_partial(f), as_partial(loss), params, batch)

    return diagonal


def pull_all(outputs: tuple, pullback: Callable) -> list:
    """Pull z back along every row of seeds, for outputs ``(z, seeds, *others)``."""
    z, seeds, *others = outputs
    unravel = ravel_pytree(z)[1]
    zeros = jax.tree.map(jnp.zeros_like, (seeds, *others))

    def one(seed):
        factors = pullback((unravel(seed), *zeros))
        return [a for a, _ in factors], [g for _, g in factors]

    # the left factors, from which z was computed, are the same for all seeds
    return list(zip(*jax.vmap(one, 0, (None, 0))(seeds)))


def bent(f: Callable, loss: Callable, params: PyTree, batch: PyTree) -> tuple:
    """Return the outputs of one example, the Hessian of its total loss in them, and its weight."""
    z = f(params, batch)
    flat, unravel = ravel_pytree(z)

    def total(flat):
        mean = _mean.weighted(loss(unravel(flat), batch), batch)
        return mean.total, mean.weight

    bend, weight = jax.hessian(total, has_aux=True)(flat)
    return z, bend, weight


@jax.jit
def _gram(f: Partial, params: PyTree, batch: PyTree, other: PyTree) -> Array:
    def products(e: Examples, o: Examples):
        pairs = zip(e.uses, o.uses, e.leaves)
        parts = [
            _factors.jacobian_products(uses, others, leaf)
            for uses, others, leaf in pairs
            if uses is not None and others is not None
        ]
        return sum(parts[1:], parts[0])

    def outputs(params, batch):
        z = f(params, batch)
        flat = ravel_pytree(z)[0]
        return z, jnp.eye(flat.size, dtype=flat.dtype)

    way = Pass(outputs, pull_all)
    over_batch = partial(over_blocks, way=way, params=params, whole=True)
    if other is None:
        return over_batch(lambda e: products(e, e), batch=batch)[0]
    return over_batch(lambda e: over_batch(lambda o: products(e, o), batch=other)[0], batch=batch)[
        0
    ]


@jax.jit
def _diagonal(f: Partial, loss: Partial, params: PyTree, batch: PyTree) -> PyTree:
    def each(params, batch):
        z, bend, weight = bent(f, loss, params, batch)
        # in the eigenvectors of the Hessian, which may be held fixed, since any basis would do
        v = jax.lax.stop_gradient(jnp.linalg.eigh(jax.lax.stop_gradient(bend))[1])
        return z, v.T, product(product(v, bend, "ck,cd->kd"), v, "kd,dl->kl"), weight

    def totals(e: Examples):
        _, _, bends, weight = e.outputs
        bends = jnp.where(e.counts[:, None, None], bends, 0)
        sums = e.map(lambda uses, p: _factors.quadratic_diagonal(uses, bends, p))
        return sums, jnp.where(e.counts, weight, 0).sum()

    return like(params, averaged(over_blocks(totals, Pass(each, pull_all), params, batch)))
