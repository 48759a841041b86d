"""The Laplace approximation: a Gaussian around trained parameters, from a curvature operator."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _batching, _tree
from funcdl._check import at_least, concrete, record
from funcdl._closure import hoisted
from funcdl._typing import Array, PyTree
from funcdl.curvature._mean_operator import check_function
from funcdl.operators import LinearOperator
from funcdl.per_example import require_independent


class Laplace(NamedTuple):
    r"""A Gaussian over parameters, :math:`N(\theta^*, (n A + \delta I)^{-1})`.

    Attributes:
        params: The mean :math:`\theta^*`, all parameters.
        precision: :math:`n A + \delta I`, on the parameters that vary; it has ``solve`` and
            ``logdet``.
        examples: The number of examples, n.
        prior_precision: δ.
    """

    params: PyTree
    precision: LinearOperator
    examples: int
    prior_precision: Array | float


class Predictive(NamedTuple):
    """Gaussians over the outputs, one for each example.

    Attributes:
        mean: ``(b, c)``, the outputs at the mean of the parameters.
        covariance: ``(b, c, c)``, the uncertainty due to the parameters; noise of the data adds to
            it.
    """

    mean: Array
    covariance: Array


def laplace(
    A: LinearOperator, params: PyTree, *, examples: int, prior_precision: Array | float
) -> Laplace:
    r"""Approximate the posterior of the parameters by a Gaussian.

    The choice of A determines the approximation: ``kfac`` or ``ekfac`` of the model;
    ``operators.from_diagonal(ggn_diagonal(...), psd=True)``; ``operators.materialize(ggn(...))``
    for the whole matrix; and ``.block("last/**")`` of each for the last layer only, or for any
    other part.

    Args:
        A: Positive semi-definite curvature of the mean negative log-likelihood (in nats), with a
            direct ``solve`` of its shifts; on trees like ``params``, or on a block of them.
        params: The parameters at which A was taken, a minimum of the likelihood times the prior.
        examples: The number n of examples in the mean.
        prior_precision: The δ of a prior :math:`N(0, I / \delta)`: n times the weight decay λ of a
            penalty :math:`\tfrac{\lambda}{2} \|\theta\|^2` on the mean loss.

    Returns:
        The Gaussian.

    Raises:
        ValueError: If A is not marked positive semi-definite, its vectors are not like
            ``params``, or n or δ is not positive.
        TypeError: If shifts of A have no direct ``solve``.

    Source: MacKay, "A practical Bayesian framework for backpropagation networks", Neural
    Computation 4 (1992); Daxberger et al., "Laplace redux", NeurIPS (2021).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.eye(2), psd=True)
    >>> posterior = laplace(A, jnp.zeros(2), examples=3, prior_precision=1.0)
    >>> posterior.precision.solve(jnp.ones(2)).tolist()
    [0.25, 0.25]
    """
    _tree.check_floating(params, "params")
    record("A", A, LinearOperator, "such as curvature.ggn(f, loss, params, data)")
    if not A.psd:
        raise ValueError(
            "A is not marked positive semi-definite, so it does not define a Gaussian; use ggn, "
            "fisher_exact or kfac instead of the Hessian"
        )
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _tree.wide(x.dtype)), params)
    _tree.check_like(A.shape_in, _chosen(A, wide), "A.shape_in", "params")
    at_least("examples", examples, 1)
    known = concrete(prior_precision)
    if known is not None and not (known > 0).all():
        raise ValueError(f"prior_precision is {prior_precision}; expected a positive number")
    precision = examples * A.shift(prior_precision / examples)
    if not precision.action.solve:
        raise TypeError(
            "A has no direct solve of its shifts; use operators.materialize(A), kfac, or "
            "operators.from_diagonal of its diagonal"
        )
    return Laplace(
        params=params,
        precision=precision,
        examples=examples,
        prior_precision=prior_precision,
    )


def log_evidence(posterior: Laplace, loss: Array | float) -> Array:
    r"""Approximate the marginal likelihood of the data.

    .. math::
        \log p(D) \approx -n \ell(\theta^*) - \tfrac{1}{2} \bigl(\delta \|\theta^*\|^2
        + \log\det(n A + \delta I) - p \log \delta \bigr)

    with p parameters that vary. It is differentiable in the prior precision and in everything that
    the posterior was computed from, so that both can be fitted.

    Args:
        posterior: The result of ``laplace``.
        loss: :math:`\ell(\theta^*)`, the normalized mean negative log-likelihood at the mean.

    Returns:
        The log evidence in nats, a scalar.

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.eye(2), psd=True)
    >>> posterior = laplace(A, jnp.zeros(2), examples=3, prior_precision=1.0)
    >>> log_evidence(posterior, jnp.asarray(0.5)).round(4).item()  # -1.5 - log 4
    -2.8863
    """
    record("posterior", posterior, Laplace, "from curvature.laplace")
    precision, n, delta = posterior.precision, posterior.examples, posterior.prior_precision
    theta = _chosen(precision, posterior.params)
    penalty = delta * _tree.dot(theta, theta)
    volume = precision.logdet() - precision.space_in.size * jnp.log(delta)
    return -n * loss - 0.5 * (penalty + volume)


def predictive(posterior: Laplace, f: Callable, data: PyTree) -> Predictive:
    r"""Propagate the Gaussian to the outputs of the linearized model.

    .. math:: z(x) \sim N\bigl(f(\theta^*, x),\; J(x)\, (n A + \delta I)^{-1} J(x)^\top \bigr)

    Args:
        posterior: The result of ``laplace``.
        f: ``f(params, batch) -> (b, c)`` for examples that do not interact.
        data: One batch, or ``Batches``, in stored order.

    Returns:
        Mean and covariance of the outputs of each example. The Jacobian of a batch is held in
        memory, b c times the varying parameters: split the data into ``Batches`` where that is too
        much.

    Raises:
        ValueError: If the outputs are not ``(b, c)``, or examples interact
            (``ExamplesInteractError``).

    Source: Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local
    linearization", AISTATS (2021).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.eye(2), psd=True)
    >>> posterior = laplace(A, jnp.zeros(2), examples=3, prior_precision=1.0)
    >>> f = lambda w, x: (x @ w)[:, None]
    >>> predictive(posterior, f, jnp.asarray([[1.0, 0.0], [2.0, 0.0]])).covariance[:, 0, 0].tolist()
    [0.25, 1.0]
    """
    record("posterior", posterior, Laplace, "from curvature.laplace")
    check_function(f, "f", "params, batch")
    forms = _batching.forms(data)
    form = jax.eval_shape(f, posterior.params, forms[0])
    if getattr(form, "ndim", None) != 2:
        shapes = jax.tree.map(lambda x: x.shape, form)
        raise ValueError(f"z = f(params, batch) has shape {shapes}; expected (b, c)")
    require_independent(f, posterior.params, forms[0])
    sizes = [_batching.resized(forms[0], size) for size in (1, *_batching.SIZES)] + forms
    return _predictive(posterior, hoisted(f, *((posterior.params, form) for form in sizes)), data)


@jax.jit
def _predictive(posterior: Laplace, f: Partial, data: PyTree) -> Predictive:
    chosen, merge = _tree.select(posterior.params, _where(posterior.precision))
    solve = jax.vmap(jax.vmap(posterior.precision.solve))

    def of(batch) -> Predictive:
        outputs = lambda chosen, one: f(merge(chosen), one)[0]
        rows = _batching.one_by_one(lambda one: jax.jacrev(outputs)(chosen, one), batch)
        rows = jax.tree.map(lambda x: x.astype(_tree.wide(x.dtype)), rows)
        covariance = _pairs(rows, solve(rows))
        return Predictive(f(posterior.params, batch), covariance)

    return _batching.each(of, data)


def _pairs(x: PyTree, y: PyTree) -> Array:
    """Multiply vectors ``(b, c, ...)`` of each example with one another: ``(b, c, c)``."""
    flat = lambda a: a.reshape(*a.shape[:2], -1)
    products = jax.tree.map(lambda a, b: flat(a) @ flat(b).transpose(0, 2, 1), x, y)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def _where(A: LinearOperator) -> tuple[str, ...]:
    return tuple(_tree.paths(A.shape_in))


def _chosen(A: LinearOperator, params: PyTree) -> PyTree:
    """Return the part of the parameters that an operator acts on, which may be a block."""
    known = set(_where(A)) <= set(_tree.paths(params))
    return _tree.select(params, _where(A)).chosen if known else params
