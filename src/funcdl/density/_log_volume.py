"""The volume factor of maps into more dimensions."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from funcdl import _tree
from funcdl._closure import as_partial
from funcdl._typing import Array, Function
from funcdl.density._trace import float_leaves


def value_and_log_volume(f: Function) -> Function:
    r"""Compute :math:`f(x)` and the log-volume :math:`\tfrac12 \log\det J^\top J`.

    The density of :math:`f(X)` on the surface :math:`f(\mathbb{R}^n)`, with respect to the area of
    the surface, is :math:`p_X(x)\, e^{-\text{log-volume}}`. The log-volume is computed from a QR
    factorization of J, and is -inf where J is rank deficient to working precision.

    Args:
        f: The function ``f(x, *args)`` from n numbers to m >= n numbers.

    Returns:
        A function ``transformed(x, *args) -> (f(x), log_volume)``.

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
            raise ValueError(
                f"f maps {n} numbers to {m}; a volume needs at least as many outputs as inputs"
            )
        flat, unravel = ravel_pytree(x)
        value = f(x, *args)

        def raveled(z):
            return ravel_pytree(f(unravel(z), *args))[0]

        jacobian = jax.jacfwd(raveled)(flat)
        jacobian = jacobian.astype(_tree.wide(jacobian.dtype))
        return value, _log_volume(jacobian)

    return transformed


@jax.custom_jvp
def _log_volume(jacobian: Array) -> Array:
    scale = jnp.abs(jacobian).max(0, keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    r = jnp.linalg.qr(jacobian / scale, mode="r")
    pivots = jnp.abs(jnp.diagonal(r))
    eps = 4 * max(jacobian.shape) ** 0.5 * jnp.finfo(jacobian.dtype).eps
    log_volume = jnp.log(pivots).sum() + jnp.log(scale).sum()
    return jnp.where((pivots <= eps).any(), -jnp.inf, log_volume)


@_log_volume.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (jacobian,), (tangent,) = primals, tangents
    gram = jacobian.T @ jacobian
    return _log_volume(jacobian), jnp.trace(jnp.linalg.solve(gram, jacobian.T @ tangent))
