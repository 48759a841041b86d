"""Volume of maps into more dimensions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._closure import as_partial
from funcdl.density._trace import float_leaves


def value_and_log_volume(f: Callable) -> Callable:
    r"""Compute :math:`f(x)` and :math:`\tfrac12 \log\det J^\top J`, the log-volume that f spans.

    The density of :math:`f(X)` on the surface that f draws is
    :math:`p_X(x)\, e^{-\text{log-volume}}`, with respect to the surface's own area. The triangular
    factor of J gives it; where J has not full rank, to working precision, it is -inf.

    Args:
        f: ``f(x, *args)``, of n numbers to m >= n.

    Returns:
        ``transformed(x, *args) -> (f(x), log_volume)``.

    Raises:
        ValueError: If f(x) has fewer numbers than x.

    Source:
        Gemici, Rezende and Mohamed (2016), Normalizing flows on Riemannian manifolds.

    >>> import jax.numpy as jnp
    >>> circle = lambda angle: 3 * jnp.array([jnp.cos(angle), jnp.sin(angle)])
    >>> y, log_volume = value_and_log_volume(circle)(jnp.array(0.5))
    >>> jnp.exp(log_volume).round(4).item()
    3.0
    """
    f = as_partial(f)

    def transformed(x, *args):
        _, n = float_leaves(x, "x")
        out = jax.eval_shape(f, x, *args)
        _, m = float_leaves(out, "f(x)")
        if m < n:
            raise ValueError(f"f maps {n} numbers to {m}; a volume needs at least as many")
        flat, back = jax.flatten_util.ravel_pytree(x)
        value = f(x, *args)

        def raveled(z):
            return jax.flatten_util.ravel_pytree(f(back(z), *args))[0]

        jacobian = jax.jacfwd(raveled)(flat)
        jacobian = jacobian.astype(_tree.wide(jacobian.dtype))
        return value, _log_volume(jacobian)

    return transformed


@jax.custom_jvp
def _log_volume(jacobian):
    scale = jnp.abs(jacobian).max(0, keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    r = jnp.linalg.qr(jacobian / scale, mode="r")
    pivots = jnp.abs(jnp.diagonal(r))
    eps = 4 * max(jacobian.shape) ** 0.5 * jnp.finfo(jacobian.dtype).eps
    found = jnp.log(pivots).sum() + jnp.log(scale).sum()
    return jnp.where((pivots <= eps).any(), -jnp.inf, found)


@_log_volume.defjvp
def _(primals, tangents):
    (jacobian,), (moved,) = primals, tangents
    gram = jacobian.T @ jacobian
    return _log_volume(jacobian), jnp.trace(jnp.linalg.solve(gram, jacobian.T @ moved))
