"""Student's t distribution of a vector, and its fit by ECME."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import betainc

from funcdl._check import check_key, finite, not_negative, real_array, record
from funcdl._typing import Array, Key, Scalar
from funcdl.stats import _student_t_fit
from funcdl.stats._fitting.gaussian_params import Gaussian, checked, point
from funcdl.stats._student_t_fit import StudentT, log_density, mahalanobis

__all__ = ["Fit", "StudentT", "cdf", "fit", "log_prob", "pdf", "sample"]

# degrees of freedom from which the expansion in ``_normal_quantile`` is the more accurate one
_MANY = {"float32": 50, "float64": 200}


class Fit(NamedTuple):
    """Student's t distribution fitted to data.

    Attributes:
        params: The mean, scale and degrees of freedom.
        log_likelihood: The mean over the rows.
        steps: The number of steps of ECME.
        converged: Whether the last step changed the log-likelihood by no more than ``tol``.
    """

    params: StudentT
    log_likelihood: Array
    steps: Array
    converged: Array


def log_prob(params: StudentT, x: Array) -> Scalar:
    r"""Evaluate the log-density at one point.

    .. math::
        \log\Gamma\!\left(\tfrac{\nu + d}2\right) - \log\Gamma\!\left(\tfrac\nu2\right)
        - \tfrac d2 \log \nu\pi - \tfrac12 \log|\Sigma|
        - \tfrac{\nu + d}2 \log\!\left(1 + \tfrac{m}{\nu}\right), \qquad
        m = (x - \mu)^\top \Sigma^{-1} (x - \mu)

    It is accurate far out in the tails, and for dof up to where it equals a Gaussian.

    Args:
        params: The mean, scale and degrees of freedom.
        x: The point, ``(d,)``.

    Returns:
        A scalar; NaN where the scale is not positive definite.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If they are not of a float dtype.

    Source: Kotz and Nadarajah, "Multivariate t distributions and their applications" (2004).

    >>> params = StudentT(jnp.zeros(1), jnp.eye(1), jnp.asarray(1.0))
    >>> log_prob(params, jnp.zeros(1)).round(4).item()  # Cauchy: -log pi
    -1.1447
    """
    mean, scale, dof = _checked(params)
    x = point(x, mean)
    m, log_det = mahalanobis(mean, scale, x[None])
    return log_density(m[0], log_det, dof, len(mean))


def pdf(params: StudentT, x: Array) -> Scalar:
    """Evaluate the density at one point, the exponential of ``log_prob``.

    Args:
        params: The mean, scale and degrees of freedom.
        x: The point, ``(d,)``.

    Returns:
        A scalar; NaN where the scale is not positive definite.
    """
    return jnp.exp(log_prob(params, x))


def cdf(params: StudentT, x: Array) -> Scalar:
    r"""Evaluate the distribution function of one variable, :math:`P(X \le x)`.

    .. math::
        P(X \le x) = \tfrac12 I_{\nu / (\nu + t^2)}\!\left(\tfrac\nu2, \tfrac12\right)
        \text{ for } t = \tfrac{x - \mu}{\sqrt\Sigma} \le 0

    Differentiable in x, mean and scale; the derivative in the degrees of freedom is NaN, since jax
    does not have that of the incomplete beta function.

    Args:
        params: The mean, scale and degrees of freedom, with d = 1.
        x: The point, ``(1,)``.

    Returns:
        A scalar.

    Raises:
        ValueError: If d is not 1, or the shapes do not fit.

    >>> params = StudentT(jnp.zeros(1), jnp.eye(1), jnp.asarray(1.0))
    >>> cdf(params, jnp.ones(1)).round(4).item()  # Cauchy: 1/2 + atan(1) / pi
    0.75
    """
    mean, scale, dof = _checked(params)
    x = point(x, mean)
    if len(mean) != 1:
        raise ValueError(f"params has d = {len(mean)}; the cdf has a closed form only for d = 1")
    return _standard_cdf((x - mean)[0] / jnp.sqrt(scale[0, 0]), dof)


@jax.custom_jvp
def _standard_cdf(t: Scalar, dof: Scalar) -> Scalar:
    half = jnp.asarray(0.5, t.dtype)
    square = t * t
    # far out the tail itself, near the center one half minus the middle: both without cancellation
    far = square > dof
    middle = jnp.where(far, 0, betainc(half, dof / 2, square / (dof + square)))
    tail = jnp.where(far, betainc(dof / 2, half, dof / (dof + square)), 1 - middle) / 2
    tail = jnp.where(
        dof > _MANY.get(str(t.dtype), 50),
        jax.scipy.special.ndtr(-_normal_quantile(jnp.abs(t), dof)),
        tail,
    )
    return jnp.where(t > 0, 1 - tail, tail)


def _normal_quantile(t: Scalar, dof: Scalar) -> Scalar:
    """Return the point at which a normal variable has the same tail, for many degrees of freedom.

    The incomplete beta function loses its digits there. Source: Hill (1970), Algorithm 395.
    """
    safe = jnp.maximum(dof, 1.0)
    a = safe - 0.5
    b = 48 * a * a
    square = a * jnp.log1p(t * t / safe)
    odd = (((-0.4 * square - 3.3) * square - 24) * square - 85.5) / (0.8 * square**2 + 100 + b)
    return ((odd + square + 3) / b + 1) * jnp.sqrt(square)


def _standard_cdf_jvp(primals: tuple, tangents: tuple) -> tuple[Scalar, Scalar]:
    t, dof = primals
    slope = jnp.exp(log_density(t * t, jnp.zeros_like(t), dof, 1))
    parts = [a * b for a, b in zip((slope, jnp.nan), tangents) if not isinstance(b, SymbolicZero)]
    return _standard_cdf(t, dof), jnp.asarray(sum(parts))


_standard_cdf.defjvp(_standard_cdf_jvp, symbolic_zeros=True)


def sample(key: Key[Array, ""], params: StudentT) -> Array:
    r"""Draw one point, :math:`\mu + L z \sqrt{\nu / g}` with :math:`g \sim \chi^2_\nu`.

    Args:
        key: The random key; split it and use ``jax.vmap`` for many.
        params: The mean, scale and degrees of freedom.

    Returns:
        ``(d,)``, differentiable in the parameters.

    Raises:
        TypeError: If the key is not typed.
    """
    check_key(key)
    mean, scale, dof = _checked(params)
    key_normal, key_gamma = jax.random.split(key)
    z = jax.random.normal(key_normal, mean.shape, mean.dtype)
    log_gamma = jax.random.loggamma(key_gamma, dof / 2, (), mean.dtype)
    stretch = jnp.exp((jnp.log(dof / 2) - log_gamma) / 2)
    return mean + stretch * (jnp.linalg.cholesky(scale) @ z)


def fit(x: Array, *, tol: float | Array = 1e-5, max_steps: int | Array = 1000) -> Fit:
    r"""Estimate mean, scale and degrees of freedom by maximum likelihood.

    ECME: rows far out have less weight, :math:`w_i = (\nu + d) / (\nu + m_i)`; mean and scale are
    weighted averages, then :math:`\nu` maximizes the likelihood itself, within 0.1 to 1000, beyond
    which no data distinguish it from a Gaussian. Parameters are differentiable in x, by the
    implicit rule; for that, run it to a small ``tol`` (1e-12 in float64), since derivatives are NaN
    where the parameters are not the fixed point to half their digits.

    Args:
        x: The data, ``(n, d)``.
        tol: The change of the mean log-likelihood at which to stop, limited by rounding.
        max_steps: The largest number of steps.

    Returns:
        The parameters, and whether they converged; NaN where the rows do not span the space.

    Raises:
        ValueError: If x is not 2-D or not finite, has no rows, or ``tol`` is negative.
        TypeError: If x is not of a float dtype.

    Source: Liu and Rubin, "ML estimation of the t distribution using EM and its extensions, ECM and
    ECME", Statistica Sinica 5 (1995).

    >>> x = jnp.asarray([[-1.0], [0.0], [1.0], [0.5], [-0.5], [1000.0]])
    >>> bool(jnp.abs(fit(x).params.mean[0]) < 1)  # the last row has little weight
    True
    """
    x = real_array("x", x, 2)
    finite("x", x)
    not_negative("tol", tol)
    if len(x) < 1:
        raise ValueError(f"x has shape {x.shape}; expected at least one row")
    params, facts = _student_t_fit.ecme(x, jnp.asarray(tol, x.dtype), max_steps)
    m, log_det = mahalanobis(params.mean, params.scale, x)
    log_likelihood = log_density(m, log_det, params.dof, x.shape[1]).mean()
    return Fit(params, log_likelihood, facts.steps, facts.converged)


def _checked(params: StudentT) -> StudentT:
    """Return parameters as arrays, after a check that their shapes match."""
    record("params", params, StudentT, "the parameters of the distribution")
    mean, scale = checked(Gaussian(params.mean, params.scale), StudentT._fields)
    return StudentT(mean, scale, real_array("params.dof", params.dof, 0))
