"""Planar flows: one direction of space is stretched at a time."""

import math

import jax
import jax.numpy as jnp

from funcdl._check import real_array
from funcdl.flows._flow import Flow, check_form, repeat


def planar(layers: int) -> Flow:
    r"""Build layers that move points along one direction by the coordinate of another.

    .. math:: z = x + \hat u \tanh(w^\top x + b), \qquad
              \hat u = u + (m(w^\top u) - w^\top u) \frac{w}{|w|^2}, \quad
              m(a) = \log(1 + (e - 1) e^a) - 1 > -1

    so that :math:`w^\top \hat u > -1`, and every layer is invertible. A context moves b.

    Args:
        layers: How many, run by one ``scan``.

    Returns:
        A flow of points ``(d,)``; it starts as the identity.

    Raises:
        ValueError: If ``layers < 1``.
        TypeError: If it is no integer.

    Source: Rezende and Mohamed, "Variational inference with normalizing flows" (2015), appendix.

    >>> from funcdl import density, flows
    >>> flow = flows.planar(4)
    >>> params = flow.init(jax.random.key(0), jnp.ones(3))
    >>> flow.forward(params, jnp.arange(3.0)).round(4).tolist()
    [0.0, 1.0, 2.0]
    """
    return repeat(_PLANAR, layers)


def _init(key, x, context=None):
    check_form(x, 1)
    key_w, key_context = jax.random.split(key)
    d, dtype = x.shape[0], x.dtype
    w = jax.random.normal(key_w, (d,), dtype) / d**0.5
    params = {"w": w, "u": jnp.zeros(d, dtype), "b": jnp.zeros((), dtype)}
    if context is not None:
        numbers = math.prod(context.shape)
        params["context"] = jax.random.normal(key_context, (numbers,), dtype) / numbers**0.5
    return params


def _forward(params, x, context=None):
    x = real_array("x", x, 1)
    w, u, b = params["w"], params["u"], params["b"]
    if context is not None:
        b = b + params["context"] @ context.ravel().astype(x.dtype)
    length, along = w @ w, w @ u
    bounded = jax.nn.softplus(along + math.log(math.expm1(1))) - 1
    u = u + (bounded - along) * w / jnp.where(length > 0, length, 1)
    return x + u * jnp.tanh(w @ x + b)


_PLANAR = Flow(_init, _forward)
