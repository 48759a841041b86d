"""Planar flows: each layer stretches space along one direction."""

import math

import jax
import jax.numpy as jnp

from funcdl._check import real_array
from funcdl._typing import Array, ArrayLike, Key, Shaped
from funcdl.flows._flow import Flow, check_form, repeat


def planar(layers: int) -> Flow:
    r"""Build layers that move points along one direction by a function of another coordinate.

    .. math:: z = x + \hat u \tanh(w^\top x + b), \qquad
              \hat u = u + (m(w^\top u) - w^\top u) \frac{w}{|w|^2}, \quad
              m(a) = \log(1 + (e - 1) e^a) - 1 > -1

    so that :math:`w^\top \hat u > -1` and every layer is invertible. A context shifts b.

    Args:
        layers: The number of layers, which run in one ``scan``.

    Returns:
        A flow of points ``(d,)``. At initialization it is the identity.

    Raises:
        ValueError: If ``layers < 1``.
        TypeError: If ``layers`` is not an integer.

    Source: Rezende and Mohamed, "Variational inference with normalizing flows" (2015), appendix.

    >>> from funcdl import density, flows
    >>> flow = flows.planar(4)
    >>> params = flow.init(jax.random.key(0), jnp.ones(3))
    >>> flow.forward(params, jnp.arange(3.0)).round(4).tolist()
    [0.0, 1.0, 2.0]
    """
    return repeat(_PLANAR, layers)


def _init(key: Key[Array, ""], x: Shaped, context: Shaped = None) -> dict:
    check_form(x, 1)
    key_w, key_context = jax.random.split(key)
    d, dtype = x.shape[0], x.dtype
    w = jax.random.normal(key_w, (d,), dtype) / d**0.5
    params = {"w": w, "u": jnp.zeros(d, dtype), "b": jnp.zeros((), dtype)}
    if context is not None:
        fan_in = math.prod(context.shape)
        params["context"] = jax.random.normal(key_context, (fan_in,), dtype) / fan_in**0.5
    return params


def _forward(params: dict, x: ArrayLike, context: Array | None = None) -> Array:
    x = real_array("x", x, 1)
    w, u, b = params["w"], params["u"], params["b"]
    if context is not None:
        b = b + params["context"] @ context.ravel().astype(x.dtype)
    square, product = w @ w, w @ u
    bounded = jax.nn.softplus(product + math.log(math.expm1(1))) - 1  # above -1, and 0 at 0
    u = u + (bounded - product) * w / jnp.where(square > 0, square, 1)
    return x + u * jnp.tanh(w @ x + b)


_PLANAR = Flow(_init, _forward)
