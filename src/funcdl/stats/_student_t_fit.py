"""The density of Student's t by distance, and the iteration that fits it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, gammaln

from funcdl._typing import Array, Scalar
from funcdl.stats import gaussian
from funcdl.stats._fixed_point import differentiable

_DOF = 0.1, 1000.0  # in these bounds the degrees of freedom are sought


class StudentT(NamedTuple):
    r"""The parameters of Student's t distribution.

    Attributes:
        mean: ``(d,)``, the location :math:`\mu` (the mean where there is one).
        scale: ``(d, d)``, symmetric and positive definite :math:`\Sigma`; the covariance is
            :math:`\Sigma\, \nu / (\nu - 2)`. Where it is not definite, densities are NaN.
        dof: Degrees of freedom :math:`\nu > 0`, a scalar; 1 is the Cauchy distribution.
    """

    mean: Array
    scale: Array
    dof: Array


class Facts(NamedTuple):
    """What the iteration says of itself."""

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
    # there the difference of two large numbers would lose all digits: difference Stirling's series
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
    """Average the rows, those far out with less weight."""
    w = (dof + x.shape[1]) / (dof + m)
    mean, scale = gaussian.fit(x, w)
    return mean, scale * w.mean()


def _step(_, params: StudentT, x: Array) -> StudentT:
    """Take one step whose fixed point is that of ECME: of the degrees of freedom, by Newton."""
    m, _ = mahalanobis(params.mean, params.scale, x)
    mean, scale = _weighted(m, params.dof, x)
    m, _ = mahalanobis(mean, scale, x)
    value, curvature = jax.value_and_grad(_slope)(params.dof, m, x.shape[1])
    return StudentT(mean, scale, jnp.clip(params.dof - value / curvature, *_DOF))


def _ecme(_, start: StudentT, x: Array, control: tuple) -> tuple[StudentT, Facts]:
    tol, max_steps = control
    d = x.shape[1]

    def state(mean, scale, dof, before, steps) -> _State:
        m, log_det = mahalanobis(mean, scale, x)
        dof = _root(m, d) if dof is None else dof
        value = log_density(m, log_det, dof, d).mean()
        return _State(StudentT(mean, scale, dof), m, value, value - before, steps)

    def step(s: _State) -> _State:
        mean, scale = _weighted(s.distances, s.params.dof, x)
        return state(mean, scale, None, s.log_likelihood, s.steps + 1)

    def least(s: _State):
        return jnp.maximum(tol, 10 * jnp.finfo(x.dtype).eps * jnp.abs(s.log_likelihood))

    def unfinished(s: _State):
        return (jnp.abs(s.change) > least(s)) & (s.steps < max_steps)

    first = state(*start, -jnp.inf, jnp.int32(0))
    end = jax.lax.while_loop(unfinished, step, first)
    return end.params, Facts(end.steps, jnp.abs(end.change) <= least(end))


_differentiable = differentiable(_ecme, _step, lambda _, params: jnp.bool(True))


@jax.jit
def ecme(x: Array, tol: Scalar, max_steps) -> tuple[StudentT, Facts]:
    """Run ECME from the mean and the covariance of the data."""
    mean, covariance = gaussian.fit(x)
    start = StudentT(mean, covariance, jnp.asarray(10.0, x.dtype))
    return _differentiable(None, start, x, (tol, max_steps))
