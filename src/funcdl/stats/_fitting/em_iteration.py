"""The two steps of EM for a mixture of Gaussians, and the loop around them."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from funcdl._typing import Array, ArrayLike, Scalar
from funcdl.stats._fitting.covariances import Shape
from funcdl.stats._fitting.fixed_point import differentiable
from funcdl.stats._fitting.gaussian_params import Gaussian


class Mixture(NamedTuple):
    """The parameters of a mixture of Gaussians.

    Attributes:
        log_weights: ``(c,)``, log-probabilities of the components, up to a constant.
        components: Means ``(c, d)`` and covariances ``(c, d, d)``.
    """

    log_weights: Array
    components: Gaussian


class Facts(NamedTuple):
    """The outcome of the iteration, in addition to the parameters."""

    steps: Array
    converged: Array


class _State(NamedTuple):
    params: Mixture
    r: Array  # responsibilities at these parameters, (c, n)
    log_likelihood: Array  # at these parameters
    change: Array  # of the log-likelihood in the last step
    steps: Array


def e_step(shape: Shape, params: Mixture, x: Array) -> tuple[Array, Scalar]:
    """Return the responsibilities, ``(c, n)``, and the mean log-likelihood of the rows."""
    log_weights, (means, covariances) = params

    def one(component):
        log_weight, mean, covariance = component
        squares, log_volume = shape.measure(covariance, x - mean[None])
        return log_weight - log_volume - 0.5 * squares

    joint = jax.lax.map(one, (jax.nn.log_softmax(log_weights), means, covariances))
    total = logsumexp(joint, axis=0)
    log_likelihood = total.mean() - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return jnp.exp(joint - total[None]), log_likelihood


def m_step(shape: Shape, x: Array, r: Array, ridge: ArrayLike) -> Mixture:
    """Return the parameters that maximize the likelihood for responsibilities ``(c, n)``."""
    # 10 eps additional rows at the overall mean: the place of an empty component
    counts = r.sum(axis=1) + 10 * jnp.finfo(x.dtype).eps
    origin = x.mean(axis=0, keepdims=True)
    means = origin + jnp.matmul(r, x - origin, precision="highest") / counts[:, None]
    covariances = (
        shape.estimate(x, r, counts, means) + ridge * jnp.eye(x.shape[1], dtype=x.dtype)[None]
    )
    return Mixture(jnp.log(counts / counts.sum()), Gaussian(means, covariances))


def step(shape: Shape, params: Mixture, data: tuple) -> Mixture:
    """Take one step of EM; ``data`` are the rows and the ridge."""
    x, ridge = data
    return m_step(shape, x, e_step(shape, params, x)[0], ridge)


def distinct(_: Shape, params: Mixture) -> Array:
    """Check that no two components are equal: the way in which those share rows is arbitrary."""
    c, (means, covariances) = len(params.log_weights), params.components
    features = jnp.concatenate([means, covariances.reshape(c, -1)], axis=1)
    size = jnp.abs(features).max(axis=0, keepdims=True)
    size = jnp.where(size > 0, size, 1)
    distance = jnp.abs(features[:, None] - features[None]) / size[None]
    is_distinct = distance.max(axis=2) > 10 * jnp.finfo(means.dtype).eps ** 0.5
    return (is_distinct | jnp.eye(c, dtype=bool)).all()


# The state holds the responsibilities at its parameters, so that each step costs one E-step, which
# also yields the log-likelihood for the stopping rule. The threshold is at least the rounding error
# of that mean, or the loop might not end. The loop is not differentiated: `differentiable` solves
# the linearized fixed-point equation of `step` instead.
def _iterate(shape: Shape, start: Mixture, data: tuple, control: tuple) -> tuple[Mixture, Facts]:
    (x, ridge), (tol, max_steps) = data, control

    def threshold(s: _State):  # at least the rounding error of a mean of numbers of this size
        return jnp.maximum(tol, 10 * jnp.finfo(x.dtype).eps * jnp.abs(s.log_likelihood))

    def unfinished(s: _State):
        return (jnp.abs(s.change) > threshold(s)) & (s.steps < max_steps)

    def advance(s: _State) -> _State:
        params = m_step(shape, x, s.r, ridge)
        r, log_likelihood = e_step(shape, params, x)
        return _State(
            params=params,
            r=r,
            log_likelihood=log_likelihood,
            change=log_likelihood - s.log_likelihood,
            steps=s.steps + 1,
        )

    r, log_likelihood = e_step(shape, start, x)
    first = _State(
        params=start,
        r=r,
        log_likelihood=log_likelihood,
        change=jnp.asarray(jnp.inf, x.dtype),
        steps=jnp.int32(0),
    )
    end = jax.lax.while_loop(unfinished, advance, first)
    return end.params, Facts(steps=end.steps, converged=jnp.abs(end.change) <= threshold(end))


_differentiable = differentiable(_iterate, step, distinct)


@partial(jax.jit, static_argnums=0)
def iterate(shape: Shape, start: Mixture, data: tuple, control: tuple) -> tuple[Mixture, Facts]:
    """Run EM; the fixed point is differentiable in the data."""
    return _differentiable(shape, start, data, control)
