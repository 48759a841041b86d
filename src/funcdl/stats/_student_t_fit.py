"""The density of Student's t as a function of distance, and the iteration that fits it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, gammaln

from funcdl._typing import Array, ArrayLike, Scalar
from funcdl.stats import gaussian
from funcdl.stats._fitting.fixed_point import differentiable

_DOF = 0.1, 1000.0  # the bounds of the degrees of freedom in a fit


class StudentT(NamedTuple):
    r"""The parameters of Student's t distribution.

    Attributes:
        mean: ``(d,)``, the location :math:`\mu` (the mean where that exists).
        scale: ``(d, d)``, symmetric positive definite :math:`\Sigma`; the covariance is
            :math:`\Sigma\, \nu / (\nu - 2)`. If it is not positive definite, densities are NaN.
        dof: The degrees of freedom :math:`\nu > 0`, a scalar; 1 is the Cauchy distribution.
    """

    mean: Array
    scale: Array
    dof: Array


class Facts(NamedTuple):
    """The outcome of the iteration, in addition to the parameters."""

    steps: Array
    converged: Array


class _State(NamedTuple):
    params: StudentT
    distances: Array  # (n,) of the rows, at these parameters
    log_likelihood: Array
    change: Array
    steps: Array


def mahalanobis(mean: Array, scale: Array, x: Array) -> tuple[Array, Scalar]:
    """Return the squared distances of rows, and the log-determinant of the root of the scale."""
    factor = jnp.linalg.cholesky(scale)
    z = solve_triangular(factor, (x - mean[None]).T, lower=True)
    return (z * z).sum(axis=0), jnp.log(jnp.diagonal(factor)).sum()


def log_density(m: Array, log_det: Scalar, dof: Scalar, d: int) -> Array:
    """Evaluate the log-density at squared distances ``m``."""
    normalizer = _log_gamma_ratio(dof / 2, d / 2) - d / 2 * math.log(2 * math.pi) - log_det
    return normalizer - (dof + d) / 2 * jnp.log1p(m / dof)


def _log_gamma_ratio(a: Scalar, h: float) -> Scalar:
    r"""Compute :math:`\log\Gamma(a + h) - \log\Gamma(a) - h \log a`, small where a is large."""
    # for large a, the difference of two large numbers would lose all digits; use Stirling's series
    large = a > 20
    b, s = jnp.where(large, a, 20.0), jnp.where(large, 20.0, a)

    def rest(z):
        return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * z * z)) / (z * z)) / (z * z)) / z

    series = (b + h - 0.5) * jnp.log1p(h / b) - h + rest(b + h) - rest(b)
    return jnp.where(large, series, gammaln(s + h) - gammaln(s) - h * jnp.log(s))


def _slope(dof: Scalar, m: Array, d: int) -> Scalar:
    """Differentiate twice the mean log-likelihood by the degrees of freedom."""
    w = (dof + d) / (dof + m)
    a, b = dof / 2, (dof + d) / 2
    return digamma(b) - jnp.log(b) - digamma(a) + jnp.log(a) + 1 + (jnp.log(w) - w).mean()


def _root(m: Array, d: int) -> Scalar:
    """Maximize the likelihood over the degrees of freedom, by bisection of their logarithm."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = _slope(jnp.exp(middle), m, d) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = (jnp.asarray(math.log(bound), m.dtype) for bound in _DOF)
    return jnp.exp(sum(jax.lax.fori_loop(0, jnp.finfo(m.dtype).nmant + 5, halve, (low, high))) / 2)


def _weighted(m: Array, dof: Scalar, x: Array) -> tuple[Array, Array]:
    """Average the rows, with less weight for those far out."""
    w = (dof + x.shape[1]) / (dof + m)
    mean, scale = gaussian.fit(x, w)
    return mean, scale * w.mean()


def _step(_static: None, params: StudentT, x: Array) -> StudentT:
    """Take one step with the fixed point of ECME, with Newton's method for the dof."""
    m, _ = mahalanobis(params.mean, params.scale, x)
    mean, scale = _weighted(m, params.dof, x)
    m, _ = mahalanobis(mean, scale, x)
    value, curvature = jax.value_and_grad(_slope)(params.dof, m, x.shape[1])
    return StudentT(mean, scale, jnp.clip(params.dof - value / curvature, *_DOF))


# ECME (Liu and Rubin, 1995): after mean and scale, the degrees of freedom maximize the likelihood
# itself (by bisection, which needs no start), and not its lower bound as in EM. The state holds the
# distances at its parameters, which give the weights of the next step. Bisection has no derivative,
# so the implicit rule linearizes `_step`, whose Newton step has the same fixed point.
def _ecme(_: None, start: StudentT, x: Array, control: tuple) -> tuple[StudentT, Facts]:
    tol, max_steps = control
    d = x.shape[1]

    def state(mean, scale, dof, before, steps) -> _State:
        m, log_det = mahalanobis(mean, scale, x)
        nu = _root(m, d) if dof is None else dof
        value = log_density(m, log_det, nu, d).mean()
        return _State(
            params=StudentT(mean, scale, nu),
            distances=m,
            log_likelihood=value,
            change=value - before,
            steps=steps,
        )

    def step(s: _State) -> _State:
        mean, scale = _weighted(s.distances, s.params.dof, x)
        return state(mean, scale, None, s.log_likelihood, s.steps + 1)

    def threshold(s: _State):
        return jnp.maximum(tol, 10 * jnp.finfo(x.dtype).eps * jnp.abs(s.log_likelihood))

    def unfinished(s: _State):
        return (jnp.abs(s.change) > threshold(s)) & (s.steps < max_steps)

    first = state(start.mean, start.scale, start.dof, -jnp.inf, jnp.int32(0))
    end = jax.lax.while_loop(unfinished, step, first)
    return end.params, Facts(steps=end.steps, converged=jnp.abs(end.change) <= threshold(end))


_differentiable = differentiable(_ecme, _step, lambda _, params: jnp.bool(True))


@jax.jit
def ecme(x: Array, tol: Scalar, max_steps: ArrayLike) -> tuple[StudentT, Facts]:
    """Run ECME from the mean and the covariance of the data."""
    mean, covariance = gaussian.fit(x)
    start = StudentT(mean, covariance, jnp.asarray(10.0, x.dtype))
    return _differentiable(None, start, x, (tol, max_steps))
