"""Log-determinants of Jacobians from products alone, each with its standard error."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._check import at_least, check_key, function
from funcdl._closure import hoisted
from funcdl._typing import Array, PyTree
from funcdl.operators import Estimate, from_function, logdet, sample_mean


def lanczos_log_det(f: Callable) -> Callable:
    r"""Estimate the log-determinant of any square map, by Lanczos quadrature.

    .. math:: \log |\det J| = \tfrac12 \log\det J^\top J
              = \tfrac12 E[z^\top \log(J^\top J)\, z], \qquad J = \partial f / \partial x

    with random signs z. The products :math:`J^\top (J z)` cost one derivative forward and one
    backward. The map from products to the logarithm is that of ``operators.logdet``.

    Args:
        f: ``f(x, *args)``, as many numbers as x has; both are pytrees of floats.

    Returns:
        ``log_det(x, *args, key, probes=32, steps=20)``, an ``Estimate``. The quadrature is too high
        by a part that falls as :math:`\exp(-4\,\text{steps} / \kappa)`, :math:`\kappa` the
        condition of J, which the standard error does not see; with ``steps`` = n there is none. Its
        first derivatives are estimated by solves, and NaN where these do not converge.

    Raises:
        TypeError: If f is no function.

    Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature",
    SIAM J. Matrix Anal. Appl. 38 (2017).

    >>> from funcdl import density
    >>> log_det = density.lanczos_log_det(jnp.exp)
    >>> log_det(jnp.arange(3.0), key=jax.random.key(0), probes=2).value.round(4).item()
    3.0
    """
    function("f", f)

    def log_det(x: PyTree, *args, key, probes: int = 32, steps: int = 20) -> Estimate:
        _check_square(f, x, args)
        gram = Partial(_gram_product, hoisted(f, (x, *args)), x, *args)
        found = logdet(from_function(gram, x, psd=True), key=key, probes=probes, steps=steps)
        return Estimate(found.value / 2, found.stderr / 2, 2 * found.matvecs)

    return log_det


def power_series_log_det(g: Callable) -> Callable:
    r"""Estimate the log-determinant of :math:`x + g(x)` by a truncated power series.

    .. math:: \log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k
              \approx \sum_{k=1}^{K} \frac{(-1)^{k+1}}{k} E[z^\top J^k z],
              \qquad J = \partial g / \partial x

    with random signs z. Where g has a Lipschitz constant L < 1, what is cut off is at most
    :math:`n L^{K+1} / ((K + 1)(1 - L))`, which the standard error does not see.

    Args:
        g: ``g(x, *args)`` like x, both pytrees of floats; a contraction in x.

    Returns:
        ``log_det(x, *args, key, terms=10, probes=32)``, an ``Estimate``, differentiable to any
        order: derivatives are those of the estimate.

    Raises:
        TypeError: If g is no function.

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
        _check_residual(g, x, args)
        residual = Partial(_bound, hoisted(g, (x, *args)), *args)
        samples = _truncated(residual, x, jax.random.split(key, probes), terms)
        return sample_mean(samples, terms * probes)

    return log_det


def roulette_log_det(g: Callable) -> Callable:
    r"""Estimate the log-determinant of :math:`x + g(x)` by its power series, without bias.

    .. math:: \log\det(I + J) = E \sum_{k=1}^{N} \frac{(-1)^{k+1}}{k\, P(N \ge k)}\, z^\top J^k z,
              \qquad J = \partial g / \partial x

    where to stop, N, is drawn for each z ("Russian roulette"). The variance is finite where the
    spectral norm of J is below :math:`\sqrt{1 - p}`: lower p for maps that are nearly no
    contraction. Unbiased is the log-determinant, not its exponential.

    Args:
        g: ``g(x, *args)`` like x, both pytrees of floats; a contraction in x.

    Returns:
        ``log_det(x, *args, key, p=0.2, probes=32)``, an ``Estimate``. Terms end with probability p
        after the first two, so that :math:`2 + (1 - p) / p` products are made for a probe on
        average. Derivatives are an unbiased estimate of their own from the same draws, by
        :math:`\operatorname{tr}((I + J)^{-1} dJ)`; they hold no more than one product in memory.
        Second derivatives are had forward over reverse; jax refuses reverse over reverse.

    Raises:
        TypeError: If g is no function.

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
        _check_residual(g, x, args)
        residual = Partial(_bound, hoisted(g, (x, *args)), *args)
        samples, counts = _stopped(residual, x, jax.random.split(key, probes), p)
        return sample_mean(samples, counts.sum())

    return log_det


_EXACT = 2  # how many terms are always there


@partial(jax.jit, static_argnums=3)
def _truncated(g: Partial, x: PyTree, keys, terms: int) -> Array:
    push = jax.linearize(g, x)[1]

    def sample(key):
        z = _signs(key, x)

        def term(v, k):
            v = push(v)
            return v, _sign(k) * _tree.dot(z, v) / k

        return jax.lax.scan(term, z, jnp.arange(1, terms + 1))[1].sum()

    return jax.lax.map(sample, keys)


@jax.jit
def _stopped(g: Partial, x: PyTree, keys, p) -> tuple[Array, Array]:
    def sample(key):
        key_z, key_n = jax.random.split(key)
        n = _EXACT + jax.random.geometric(key_n, p) - 1
        return _roulette(g, x, _signs(key_z, x), n, p), n

    return jax.lax.map(sample, keys)


@jax.custom_jvp
def _roulette(g: Partial, x: PyTree, z: PyTree, n, p) -> Array:
    push = jax.linearize(g, x)[1]

    def term(state):
        k, v, total = state
        v = push(v)
        return k + 1, v, total + _sign(k) * _tree.dot(z, v) / (k * _reached(k, p))

    start = jnp.ones((), jnp.int32), z, jnp.zeros_like(_tree.dot(z, z))
    return jax.lax.while_loop(lambda state: state[0] <= n, term, start)[2]


@_roulette.defjvp
def _roulette_jvp(primals, tangents):
    (g, x, z, n, p), (dg, dx, *_) = primals, tangents
    # (I + Jᵀ)⁻¹ z by a series of its own, then one derivative of Jz
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


def _reached(k, p):
    """Return P(N >= k)."""
    return (1 - p) ** jnp.maximum(k - _EXACT, 0)


def _sign(k):
    """Return (-1)^(k + 1)."""
    return 2 * (k % 2) - 1


def _bound(g: Partial, *args_and_x):
    *args, x = args_and_x
    return g(x, *args)


def _gram_product(f: Partial, x: PyTree, *args_and_v):
    *args, v = args_and_v
    of_x = lambda x: f(x, *args)
    v = jax.tree.map(lambda v, x: v.astype(x.dtype), v, x)
    return jax.vjp(of_x, x)[1](jax.jvp(of_x, (x,), (v,))[1])[0]


def _signs(key, x: PyTree) -> PyTree:
    z = _tree.random(key, x, jax.random.rademacher)
    return jax.tree.map(lambda z, x: z.astype(x.dtype), z, x)


def _check_draws(key, probes: int) -> None:
    check_key(key)
    at_least("probes", probes, 2, "(one alone has no error bar)")


def _check_square(f, x, args) -> None:
    _tree.check_floating(x, "x")
    n, m = _tree.size(x), _tree.size(jax.eval_shape(f, x, *args))
    if n != m:
        raise ValueError(f"f maps {n} numbers to {m}; a log-determinant needs as many on each side")


def _check_residual(g, x, args) -> None:
    _tree.check_floating(x, "x")
    _tree.check_like(jax.eval_shape(g, x, *args), x, "what g returns", "x")
