"""Log-determinants of Jacobians estimated from products, each with its standard error."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._check import at_least, check_key, function
from funcdl._closure import as_partial, hoisted
from funcdl._typing import Array, ArrayLike, Function, Key, PyTree
from funcdl.density._arguments import prepared
from funcdl.operators import Estimate, from_function, logdet, sample_mean


def lanczos_log_det(f: Function) -> Function:
    r"""Estimate the log-determinant of any square map by Lanczos quadrature.

    .. math:: \log |\det J| = \tfrac12 \log\det J^\top J
              = \tfrac12 E[z^\top \log(J^\top J)\, z], \qquad J = \partial f / \partial x

    with random signs z. Each product :math:`J^\top (J z)` costs one forward and one backward
    derivative. The quadrature is that of ``operators.logdet``.

    Args:
        f: A function ``f(x, *args)`` that returns as many numbers as x has; both are pytrees of
            floats.

    Returns:
        A function ``log_det(x, *args, key, probes=32, steps=20)`` that returns an ``Estimate``. The
        quadrature is too high by a bias that falls as :math:`\exp(-4\,\text{steps} / \kappa)`,
        where :math:`\kappa` is the condition number of J. The standard error does not include the
        bias, which vanishes with ``steps`` = n. First derivatives are estimated by solves, and are
        NaN if these do not converge.

    Raises:
        TypeError: If f is not a function.

    Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature",
    SIAM J. Matrix Anal. Appl. 38 (2017).

    >>> from funcdl import density
    >>> log_det = density.lanczos_log_det(jnp.exp)
    >>> log_det(jnp.arange(3.0), key=jax.random.key(0), probes=2).value.round(4).item()
    3.0
    """
    function("f", f)

    def log_det(x: PyTree, *args, key, probes: int = 32, steps: int = 20) -> Estimate:
        h, given = prepared(as_partial(f), x, args)
        _check_square(h, x, given)
        gram = Partial(_gram_product, hoisted(h, (x, *given)), x, *given)
        estimate = logdet(from_function(gram, x, psd=True), key=key, probes=probes, steps=steps)
        return Estimate(estimate.value / 2, estimate.stderr / 2, 2 * estimate.matvecs)

    return log_det


def power_series_log_det(g: Function) -> Function:
    r"""Estimate the log-determinant of :math:`x + g(x)` by a truncated power series.

    .. math:: \log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k
              \approx \sum_{k=1}^{K} \frac{(-1)^{k+1}}{k} E[z^\top J^k z],
              \qquad J = \partial g / \partial x

    with random signs z. If g has a Lipschitz constant L < 1, the truncation error is at most
    :math:`n L^{K+1} / ((K + 1)(1 - L))`. The standard error does not include it.

    Args:
        g: A function ``g(x, *args)`` that is a contraction in x and returns a pytree of floats like
            x.

    Returns:
        A function ``log_det(x, *args, key, terms=10, probes=32)`` that returns an ``Estimate``. It
        is differentiable to any order, and its derivatives are those of the estimate.

    Raises:
        TypeError: If g is not a function.

    Source: Behrmann et al., "Invertible residual networks" (2019).

    >>> from funcdl import density
    >>> log_det = density.power_series_log_det(lambda x: x / 2)
    >>> log_det(jnp.ones(2), key=jax.random.key(0), terms=20, probes=2).value.round(3).item()
    0.811
    """
    function("g", g)

    def log_det(x: PyTree, *args, key, terms: int = 10, probes: int = 32) -> Estimate:
        _check_draws(key, probes)
        at_least("terms", terms, 1)
        h, given = prepared(as_partial(g), x, args)
        _check_residual(h, x, given)
        residual = Partial(_of_last, hoisted(h, (x, *given)), *given)
        samples = _truncated(residual, x, jax.random.split(key, probes), terms)
        return sample_mean(samples, terms * probes)

    return log_det


def roulette_log_det(g: Function) -> Function:
    r"""Estimate the log-determinant of :math:`x + g(x)` by its power series, without bias.

    .. math:: \log\det(I + J) = E \sum_{k=1}^{N} \frac{(-1)^{k+1}}{k\, P(N \ge k)}\, z^\top J^k z,
              \qquad J = \partial g / \partial x

    where the number of terms N is drawn for each z ("Russian roulette"). The variance is finite
    where the spectral norm of J is below :math:`\sqrt{1 - p}`, so maps that are close to not being
    contractions need a lower p. The log-determinant is unbiased, its exponential is not.

    Args:
        g: A function ``g(x, *args)`` that is a contraction in x and returns a pytree of floats like
            x.

    Returns:
        A function ``log_det(x, *args, key, p=0.2, probes=32)`` that returns an ``Estimate``. After
        the first two terms the series stops with probability p at each term, so that a probe takes
        :math:`2 + (1 - p) / p` products on average. Derivatives are a separate unbiased estimate
        from the same draws, by :math:`\operatorname{tr}((I + J)^{-1} dJ)`; they hold no more than
        one product in memory. For second derivatives use forward-over-reverse, since JAX rejects
        reverse-over-reverse.

    Raises:
        TypeError: If g is not a function.

    Source: Chen et al., "Residual flows for invertible generative modeling" (2019).

    >>> from funcdl import density
    >>> log_det = density.roulette_log_det(lambda x: 0 * x)
    >>> log_det(jnp.ones(2), key=jax.random.key(0), probes=2).value.item()
    0.0
    """
    function("g", g)

    def log_det(x: PyTree, *args, key, p: float = 0.2, probes: int = 32) -> Estimate:
        _check_draws(key, probes)
        if not 0 < p < 1:
            raise ValueError(f"p is {p}; expected a probability above 0 and below 1")
        h, given = prepared(as_partial(g), x, args)
        _check_residual(h, x, given)
        residual = Partial(_of_last, hoisted(h, (x, *given)), *given)
        samples, counts = _stopped(residual, x, jax.random.split(key, probes), p)
        return sample_mean(samples, counts.sum())

    return log_det


# Both series advance a probe by one product with J per term, from one linearization. The roulette
# divides term k by the probability that it is reached, so its mean is the infinite series; the
# first terms, the largest ones of a contraction, are never left out. Its loop has a random length,
# which reverse mode rejects, and would store every product. The rule below needs neither: by d log
# det(I + J) = tr((I + J)^-1 dJ) = E[uᵀ dJ z], u = (I + Jᵀ)^-1 z is summed by the same roulette
# with the pullback, and J z is differentiated once (Chen et al., 2019, the Neumann gradient).
_EXACT = 2  # the number of terms that are always computed


@partial(jax.jit, static_argnums=3)
def _truncated(g: Partial, x: PyTree, keys: Key[Array, " probes"], terms: int) -> Array:
    """Return the truncated series for each probe."""
    push = jax.linearize(g, x)[1]

    def sample(key):
        z = _signs(key, x)

        def term(v, k):
            v = push(v)
            return v, _sign(k) * _tree.dot(z, v) / k

        return jax.lax.scan(term, z, jnp.arange(1, terms + 1))[1].sum()

    return jax.lax.map(sample, keys)


@jax.jit
def _stopped(
    g: Partial, x: PyTree, keys: Key[Array, " probes"], p: ArrayLike
) -> tuple[Array, Array]:
    """Return the series for each probe, stopped at random, and its number of terms."""

    def sample(key):
        key_z, key_n = jax.random.split(key)
        n = _EXACT + jax.random.geometric(key_n, p) - 1
        return _roulette(g, x, _signs(key_z, x), n, p), n

    return jax.lax.map(sample, keys)


@jax.custom_jvp
def _roulette(g: Partial, x: PyTree, z: PyTree, n: Array, p: Array) -> Array:
    """Sum the first n terms, each divided by the probability that it is reached."""
    push = jax.linearize(g, x)[1]

    def term(state):
        k, v, total = state
        v = push(v)
        return k + 1, v, total + _sign(k) * _tree.dot(z, v) / (k * _reached(k, p))

    start = jnp.ones((), jnp.int32), z, jnp.zeros_like(_tree.dot(z, z))
    return jax.lax.while_loop(lambda state: state[0] <= n, term, start)[2]


@_roulette.defjvp
def _roulette_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (g, x, z, n, p), (dg, dx, *_) = primals, tangents
    # first (I + Jᵀ)⁻¹ z by a series of its own, then a single derivative of J z
    pull = jax.vjp(g, x)[1]

    def term(state):
        k, v, total = state
        total = _tree.axpy(_sign(k) / _reached(k, p), v, total)
        return k + 1, pull(v)[0], total

    start = jnp.ones((), jnp.int32), z, _tree.zeros(z)
    u = jax.lax.while_loop(lambda state: state[0] <= n, term, start)[2]
    in_x = lambda g, x: jax.jvp(g, (x,), (z,))[1]
    dJz = jax.jvp(in_x, (g, x), (dg, dx))[1]
    return _roulette(*primals), _tree.dot(u, dJz)


def _reached(k: Array, p: Array) -> Array:
    """Return P(N >= k)."""
    return (1 - p) ** jnp.maximum(k - _EXACT, 0)


def _sign(k: Array) -> Array:
    """Return (-1)^(k + 1)."""
    return 2 * (k % 2) - 1


def _of_last(g: Partial, *args_and_x: PyTree) -> PyTree:
    """Evaluate g with x as the last argument, so that a ``Partial`` can bind the others."""
    *args, x = args_and_x
    return g(x, *args)


def _gram_product(f: Partial, x: PyTree, *args_and_v: PyTree) -> PyTree:
    """Multiply J^T J by the last argument."""
    *args, v = args_and_v
    of_x = lambda x: f(x, *args)
    v = jax.tree.map(lambda v, x: v.astype(x.dtype), v, x)
    return jax.vjp(of_x, x)[1](jax.jvp(of_x, (x,), (v,))[1])[0]


def _signs(key: Key[Array, ""], x: PyTree) -> PyTree:
    """Draw random signs in the form of x."""
    z = _tree.random(key, x, jax.random.rademacher)
    return jax.tree.map(lambda z, x: z.astype(x.dtype), z, x)


def _check_draws(key: Any, probes: int) -> None:
    check_key(key)
    at_least("probes", probes, 2, "(a single probe has no error bar)")


def _check_square(f: Function, x: PyTree, args: tuple) -> None:
    _tree.check_floating(x, "x")
    n, m = _tree.size(x), _tree.size(jax.eval_shape(f, x, *args))
    if n != m:
        raise ValueError(
            f"f maps {n} numbers to {m}; a log-determinant needs as many outputs as inputs"
        )


def _check_residual(g: Function, x: PyTree, args: tuple) -> None:
    _tree.check_floating(x, "x")
    _tree.check_like(jax.eval_shape(g, x, *args), x, "the output of g", "x")
