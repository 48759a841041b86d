"""The gradient noise scale: the part of a batch's gradient that is noise."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _batching, _mean, _tree
from funcdl._closure import as_partial
from funcdl._numerics import power_of_two
from funcdl._typing import LossFunction, PyTree
from funcdl.operators import Estimate
from funcdl.per_example import grad_norm


def noise_scale(loss: LossFunction, params: PyTree, batch: PyTree) -> Estimate:
    r"""Estimate the gradient noise scale, :math:`\operatorname{tr} \Sigma / \|G\|^2`.

    G is the gradient of the mean loss over the distribution that the batch was drawn from, and Σ
    the covariance of the gradients of its examples; both terms are estimated without bias. A batch
    of this size has as much noise as signal in its gradient.

    Args:
        loss: ``loss(params, batch)``: a scalar mean over examples that do not interact, or
            ``Mean(total, weight)``; examples of weight 0 count as absent.
        params: Any pytree of float arrays.
        batch: Independent examples, at least 3; fewer with a positive weight give NaN.

    Returns:
        The ratio, in examples, and its standard error by leaving out one example at a time. Where
        the batch cannot distinguish the gradient from 0, the ratio is large, of either sign, and so
        is its standard error.

    Raises:
        ValueError: If there are fewer than 3 examples, or examples interact
            (``ExamplesInteractError``).
        TypeError: If a parameter is not a float array; the message names its path.

    Source: McCandlish et al., "An empirical model of large-batch training" (2018).

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * ((w[None] - x) ** 2).sum(axis=1).mean()
    >>> noise_scale(loss, jnp.zeros(1), jnp.asarray([[1.0], [2.0], [3.0]])).value.round(3).item()
    0.273
    """
    _tree.check_floating(params, "params")
    if _batching.examples(batch) < 3:
        raise ValueError(f"batch has {_batching.examples(batch)} examples; expected at least 3")
    return _noise_scale(as_partial(loss), params, batch)


# An example of weight w counts as the gradient G + (w / mean w)(g - G): these have the mean G, and
# the spread of the weighted mean to first order. Examples of weight 0 count as absent.
@jax.jit
def _noise_scale(loss: Partial, params: PyTree, batch: PyTree) -> Estimate:
    def each(p):
        means = _batching.one_by_one(lambda one: _mean.weighted(loss(p, one), one), batch)
        return means.total / jnp.where(means.weight == 0, 1, means.weight), means.weight

    weight = each(params)[1]
    counts = weight > 0
    n = counts.sum().astype(weight.dtype)
    share = weight / weight.sum() * n
    # gradients in the unit of the largest one: the ratio has no unit, and squares stay in range
    norms = grad_norm(loss)(params, batch)
    scale = 1 / power_of_two(norms)
    mean = _tree.scale(scale, jax.grad(lambda p: (each(p)[0] * share).sum() / n)(params))
    slopes = scale * jax.jvp(lambda p: each(p)[0], (params,), (mean,))[1]  # along the mean
    size = _tree.dot(mean, mean)
    squares = (scale * norms) ** 2
    squares = size + 2 * share * (slopes - size) + share**2 * (squares - 2 * slopes + size)
    slopes = size + share * (slopes - size)

    def ratio(n, square, size):
        signal = (n * size - square) / (n - 1)
        return n / (n - 1) * (square - size) / signal

    def over_those_that_count(x):
        return jnp.where(counts, x, 0).sum() / n

    # the mean without example i is (n G - g_i) / (n - 1)
    sizes = (n**2 * size - 2 * n * slopes + squares) / (n - 1) ** 2
    mean_square = over_those_that_count(squares)
    without = ratio(n - 1, (n * mean_square - squares) / (n - 1), sizes)
    center = over_those_that_count(without)
    spread = over_those_that_count((without - center) ** 2) * (n - 1)
    enough = jnp.where(n >= 3, 1, jnp.nan)
    return Estimate(enough * ratio(n, mean_square, size), enough * _tree.sqrt(spread))
