"""The standard normal distribution, the usual base of a flow."""

import math

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import check_key
from funcdl._typing import Array, Key, PyTree, Scalar, Shaped


def standard_normal(z: PyTree) -> Scalar:
    r"""Evaluate the log-density of independent standard normal numbers.

    .. math:: \log p(z) = -\tfrac12 |z|^2 - \tfrac n2 \log 2\pi

    This is the base of most flows: ``pullback(standard_normal, Partial(flow.forward, params))`` is
    the log-density of the data.

    Args:
        z: One point, an array or a pytree of floats.

    Returns:
        A scalar.

    Raises:
        TypeError: If a leaf is not of floats.

    >>> import jax.numpy as jnp
    >>> from funcdl import density, flows
    >>> flows.standard_normal(jnp.zeros(2)).round(4).item()  # -log 2 pi
    -1.8379
    """
    _tree.check_floating(z, "z")
    z = jax.tree.map(jnp.asarray, z)
    return -0.5 * (_tree.dot(z, z) + _tree.size(z) * math.log(2 * math.pi))


def sample_standard_normal(key: Key[Array, ""], like: Shaped) -> PyTree:
    """Draw independent standard normal numbers.

    Args:
        key: The random key.
        like: A point whose shapes and dtypes are used.

    Returns:
        A point of the form of ``like``.

    Raises:
        TypeError: If the key is not typed.

    >>> import jax.numpy as jnp
    >>> from funcdl import density, flows
    >>> flows.sample_standard_normal(jax.random.key(0), jnp.zeros(2)).shape
    (2,)
    """
    check_key(key)
    _tree.check_shaped(like, "like")
    z = _tree.random(key, like, jax.random.normal)
    return jax.tree.map(lambda z, form: z.astype(form.dtype), z, like)
