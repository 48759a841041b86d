r"""Two moons and their true density, the upper bound for every model of them.

scikit-learn's ``make_moons`` puts points on two half circles and adds Gaussian noise, so that

.. math:: p(x) = \frac12 \sum_{\text{arcs}} \frac1\pi
          \int_0^\pi \mathcal N(x;\, \text{arc}(\theta), \sigma^2 I)\, d\theta

which Gauss-Legendre quadrature evaluates up to rounding, since its nodes are much closer than
:math:`\sigma`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

NODES = 256


def arcs(angle: np.ndarray) -> np.ndarray:
    """Return the points of both arcs at the given angles, ``(2, n, 2)``."""
    x, y = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([x, y], axis=-1), np.stack([1 - x, 0.5 - y], axis=-1)])


def log_prob(x: jax.Array, noise: float | jax.Array = 0.1) -> jax.Array:
    """Evaluate the log-density of the moons at one point ``(2,)``."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    centers = jnp.asarray(arcs((nodes + 1) * np.pi / 2).reshape(-1, 2), x.dtype)
    shares = jnp.asarray(np.log(np.tile(weights / 4, 2)), x.dtype)
    square = ((x[None] - centers) ** 2).sum(axis=1)
    normal = -square / (2 * noise**2) - jnp.log(2 * math.pi * noise**2)
    return jax.scipy.special.logsumexp(shares + normal)


def sample(seed: int, n: int, noise: float = 0.1) -> np.ndarray:
    """Draw n points, float32 ``(n, 2)``, at random angles (scikit-learn spaces them evenly)."""
    rng = np.random.default_rng(seed)
    points = arcs(rng.uniform(0, np.pi, n))[rng.integers(0, 2, n), np.arange(n)]
    return (points + noise * rng.normal(size=(n, 2))).astype(np.float32)
