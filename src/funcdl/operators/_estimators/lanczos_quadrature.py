"""Spectral densities by stochastic Lanczos quadrature, each with its standard error."""

from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import at_least, function, record, returns_array
from funcdl._numerics import decomposed, quotient
from funcdl._typing import Array, ArrayLike, Float, Function, Key
from funcdl.operators._core import checks
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Estimate, SpectralDensity
from funcdl.operators._core.views import raveled
from funcdl.operators._estimators.hutchinson import check_probes, sample_mean, signs
from funcdl.operators._solvers.refinement import in_unit


def spectral_density(
    A: LinearOperator,
    *,
    key: Key[Array, ""],
    probes: int = 32,
    steps: int = 20,
) -> SpectralDensity:
    r"""Estimate the distribution of the eigenvalues by stochastic Lanczos quadrature.

    Each probe z gives a Gauss quadrature of :math:`\sum_i (z^\top v_i)^2 \delta(\lambda -
    \lambda_i) / n`, exact for polynomials up to degree ``2 steps - 1``; their mean is the density
    of the n eigenvalues. Read it with ``spectral_mean`` and ``smoothed_density``. Three vectors are
    held in memory, not a basis: loss of orthogonality produces copies of an eigenvalue, which
    share its weight. Derivatives are those of the quadratures; where a Krylov space was exhausted,
    only the first derivative is right, and the second is NaN.

    Args:
        A: A symmetric operator.
        key: The random key for the probes.
        probes: The number of probes, at least 2. Of the intervals of 2 standard errors around a
            moment, 93 to 97 % hold the truth for 32 probes; for 8 it is 92 % where the spectrum is
            flat and 80 % where few eigenvalues dominate.
        steps: The number of Lanczos steps per probe, at most n.

    Returns:
        Nodes and weights for each probe, and the standard error of the mean eigenvalue.

    Raises:
        ValueError: If A is not marked symmetric or ``probes < 2``.
        TypeError: If the key is not typed.

    Source: Golub and Meurant, "Matrices, moments and quadrature" (2010), chapter 6; Ghorbani,
    Krishnan and Xiao, "An investigation into neural net optimization via Hessian eigenvalue
    density" (2019).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.diag(jnp.asarray([1.0, 2.0, 6.0])), symmetric=True)
    >>> density = operators.spectral_density(A, key=jax.random.key(0), probes=4, steps=3)
    >>> operators.spectral_mean(density, lambda x: x).value.round(4).item()
    3.0
    """
    check_probes(A, key, probes)
    steps = check_steps(A, steps)
    nodes, weights = _quadratures(raveled(A), jax.random.split(key, probes), steps)
    mean = sample_mean((nodes * weights).sum(axis=1))
    return SpectralDensity(nodes, weights, mean.stderr, probes * steps)


@partial(jax.jit, static_argnums=2)
def _quadratures(a: LinearOperator, keys: Key[Array, " p"], steps: int) -> tuple[Array, Array]:
    nodes, weights = jax.lax.map(lambda key: quadrature(a, signs(key, a.shape_in), steps), keys)
    exhausted = (weights == 0).any(axis=1, keepdims=True)
    return _once(nodes, exhausted), _once(weights, exhausted)


def quadrature(A: LinearOperator, z: Array, steps: int) -> tuple[Array, Array]:
    """Return the nodes and weights of the Gauss quadrature of one probe.

    Gradients of a weighted sum over the nodes are right even where the Krylov space is exhausted
    before ``steps``; second derivatives are not available there.
    """
    alphas, betas, unit = tridiagonal(A, z / z.size**0.5, steps)
    off = betas[:-1]
    # Nodes after a zero in `off` have no weight. Ties have no derivative, so these nodes are moved
    # beyond the others and apart for `eigh`, and afterwards to the first entry of the diagonal,
    # where a function of the eigenvalues is defined.
    dead = jnp.concatenate([jnp.zeros(1, bool), jnp.cumsum(off == 0) > 0])
    bound = jax.lax.stop_gradient(jnp.abs(alphas).max() + 2 * betas.max())
    apart = jnp.where(bound > 0, bound, 1) * (1.25 + jnp.arange(steps) / steps)
    diagonal = jnp.where(dead, apart.astype(alphas.dtype), alphas)
    t = jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
    nodes, vectors = decomposed(jnp.linalg.eigh, t)
    return unit * jnp.where(dead, alphas[0], nodes), jnp.where(dead, 0, vectors[0] ** 2)


@jax.custom_jvp
def _once(x: Array, exhausted: Array) -> Array:
    """Return x, with a second derivative that is NaN where ``exhausted`` is true."""
    del exhausted
    return x


@_once.defjvp
def _once_jvp(primals: tuple, tangents: tuple) -> tuple:
    return _once(*primals), tangents[0] * _constant(*primals)


@jax.custom_jvp
def _constant(x: Array, exhausted: Array) -> Array:
    del exhausted
    return jnp.ones_like(x)


@_constant.defjvp
def _constant_jvp(primals: tuple, tangents: tuple) -> tuple:
    return _constant(*primals), tangents[0] * jnp.where(primals[1], jnp.nan, 0)


def spectral_mean(density: SpectralDensity, f: Function) -> Estimate:
    r"""Average a function over the eigenvalues, :math:`\frac1n \sum_i f(\lambda_i)`.

    Args:
        density: The result of ``spectral_density``.
        f: A function ``f(eigenvalue) -> array`` of any shape.

    Returns:
        The mean over the probes and its standard error, with the shape of ``f``'s result.

    Raises:
        TypeError: If ``density`` is not a ``SpectralDensity``, or ``f`` is not callable.
        ValueError: If ``f`` returns anything other than one array, such as a tuple.
    """
    record("density", density, SpectralDensity, "from operators.spectral_density")
    function("f", f, "a function f(eigenvalue)")
    values = jax.vmap(jax.vmap(f))(density.nodes)
    returns_array("f", values)
    samples = jax.vmap(lambda w, v: jnp.tensordot(w, v, axes=1))(density.weights, values)
    return sample_mean(samples, density.matvecs)


def smoothed_density(
    density: SpectralDensity, grid: Float[Array, " g"], width: ArrayLike
) -> Estimate:
    r"""Evaluate the density, smoothed by a Gaussian of standard deviation ``width``.

    Args:
        density: The result of ``spectral_density``.
        grid: The eigenvalues at which to evaluate it, ``(g,)``.
        width: The standard deviation, in units of the eigenvalues; choose it no smaller than the
            distance between nodes.

    Returns:
        The density and its standard error on the grid, per unit of eigenvalue; it integrates to 1.
    """
    return _smooth(density, grid, width)


@jax.jit
def _smooth(density: SpectralDensity, grid: Array, width: ArrayLike) -> Estimate:
    def kernel(node):
        return quotient(jax.scipy.stats.norm.pdf(quotient(grid - node, width)), width)

    return spectral_mean(density, kernel)


# Without reorthogonalization: it would need the whole basis, and a quadrature does not, since the
# copies of an eigenvalue that appear share its weight.
def tridiagonal(A: LinearOperator, first: Array, steps: int) -> tuple[Array, Array, Array]:
    """Run the three-term Lanczos recurrence from a vector of length 1.

    Returns:
        The diagonal and the off-diagonal, and their unit: quotients of numbers near the limits of
        the dtype have no derivative.
    """
    eps = jnp.finfo(first.dtype).eps

    def step(carry, at):
        v, before, beta, unit = carry
        w, unit = in_unit((A @ v).astype(v.dtype), unit, at)
        alpha = v @ w
        length = _tree.norm(w)
        w = w - alpha * v - beta * before
        beta = _tree.norm(w)
        # The Krylov space counts as exhausted as soon as the derivative of w / beta would be noise;
        # an off-diagonal entry of this size changes a quadrature by eps.
        alive = beta > eps**0.5 * length
        beta = jnp.where(alive, beta, 0)
        after = jnp.where(alive, w / jnp.where(alive, beta, 1), 0)
        return (after, v, beta, unit), (alpha, beta)

    zero = jnp.zeros((), first.dtype)
    start = (first, jnp.zeros_like(first), zero, jnp.ones_like(zero))
    (*_, unit), (alphas, betas) = jax.lax.scan(step, start, jnp.arange(steps))
    return alphas, betas, unit


def check_steps(a: LinearOperator, steps: int) -> int:
    """Check the operator and the number of steps of a Lanczos run; limit the steps to n.

    Raises:
        ValueError: If A is not square or not marked symmetric, or ``steps < 1``.
    """  # noqa: DOC201
    checks.not_square(a)
    if not a.symmetric:
        raise ValueError("A is not marked symmetric; build it with symmetric=True, or use A.T @ A")
    at_least("steps", steps, 1)
    return min(steps, a.space_in.size)
