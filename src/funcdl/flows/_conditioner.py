"""Conditioners: the functions of a flow that need not be invertible."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._check import integer_in
from funcdl._typing import Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Conditioner:
    """A network that gives the parameters of a part of a flow, as a pair of pure functions.

    Anything will do; where its last layer is zero at the start, the flow starts as the identity.

    Attributes:
        init: ``init(key, x, size, context=None) -> params``; reads only the shapes and dtypes of
            ``x`` and ``context``.
        apply: ``apply(params, x, context=None) -> y``, whose last axis has ``size`` numbers.

    >>> linear = Conditioner(
    ...     init=lambda key, x, size, context=None: jnp.zeros((*x.shape, size)),
    ...     apply=lambda params, x, context=None: x @ params,
    ... )
    >>> linear.apply(linear.init(jax.random.key(0), jnp.ones(3), 2), jnp.ones(3)).tolist()
    [0.0, 0.0]
    """

    init: Callable
    apply: Callable


def mlp(*widths: int, activation: Callable = jax.nn.relu) -> Conditioner:
    """Build a multilayer perceptron on vectors; its last layer starts at zero.

    Args:
        widths: Of the hidden layers; none gives an affine map.
        activation: Between the layers.

    Returns:
        The conditioner; a context, of any shape, joins its input.

    Raises:
        ValueError: If a width is less than 1.
        TypeError: If one is no integer.

    Source: He et al., "Delving deep into rectifiers" (2015), for the scale of the start.

    >>> net = mlp(8)
    >>> net.apply(net.init(jax.random.key(0), jnp.ones(3), 2), jnp.ones(3)).tolist()
    [0.0, 0.0]
    """
    check_widths(widths)

    def init(key, x, size, context=None):
        into = x.shape[-1] + (0 if context is None else math.prod(context.shape))
        return draw_layers(key, (into, *widths, size), (), x.dtype)

    def apply(params, x, context=None):
        x = x if context is None else jnp.concatenate([x, context.ravel().astype(x.dtype)])
        *hidden, last = params
        for layer in hidden:
            x = activation(_affine(layer, x))
        return _affine(last, x)

    return Conditioner(init, apply)


def cnn(*channels: int, activation: Callable = jax.nn.relu) -> Conditioner:
    """Build a network of 3x3 convolutions on one image; its last layer starts at zero.

    Args:
        channels: Of the hidden layers.
        activation: Between the layers.

    Returns:
        The conditioner of images ``(height, width, c)``; the numbers of a context join every pixel.

    Raises:
        ValueError: If a number of channels is less than 1.
        TypeError: If one is no integer.

    >>> net = cnn(8)
    >>> net.apply(net.init(jax.random.key(0), jnp.ones((4, 4, 2)), 3), jnp.ones((4, 4, 2))).shape
    (4, 4, 3)
    """
    check_widths(channels)

    def init(key, x, size, context=None):
        into = x.shape[-1] + (0 if context is None else math.prod(context.shape))
        return draw_layers(key, (into, *channels, size), (3, 3), x.dtype)

    def apply(params, x, context=None):
        if context is not None:
            numbers = context.ravel().astype(x.dtype)
            everywhere = jnp.broadcast_to(numbers, (*x.shape[:2], len(numbers)))
            x = jnp.concatenate([x, everywhere], axis=-1)
        *hidden, last = params
        for layer in hidden:
            x = activation(_convolved(layer, x))
        return _convolved(last, x)

    return Conditioner(init, apply)


def draw_layers(key, widths: tuple[int, ...], window: tuple[int, ...], dtype) -> list[dict]:
    """Draw kernels ``(*window, m, n)`` and biases of a chain of layers, the last one zero."""
    params = []
    for m, n, draw in zip(widths[:-1], widths[1:], jax.random.split(key, len(widths) - 1)):
        fan_in = max(1, m * math.prod(window))
        kernel = jax.random.normal(draw, (*window, m, n), dtype) * (2 / fan_in) ** 0.5
        params.append({"kernel": kernel, "bias": jnp.zeros(n, dtype)})
    params[-1]["kernel"] = jnp.zeros_like(params[-1]["kernel"])
    return params


def check_widths(widths: tuple[int, ...]) -> None:
    """Refuse what is no width.

    Raises:
        ValueError: If one is less than 1.
        TypeError: If one is no integer.
    """
    for i, width in enumerate(widths):
        integer_in(f"width {i}", width, 1, 2**31 - 1)


def check_inputs(x, kernel) -> None:
    """Refuse an input that the parameters were not made for.

    Raises:
        ValueError: Names both numbers.
    """
    if x.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            f"the conditioner has {x.shape[-1]} inputs, its parameters are for {kernel.shape[-2]}; "
            "forward takes points and contexts of the forms that init read"
        )


def _affine(layer: dict, x: Array) -> Array:
    check_inputs(x, layer["kernel"])
    return x @ layer["kernel"] + layer["bias"]


def _convolved(layer: dict, x: Array) -> Array:
    check_inputs(x, layer["kernel"])
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x[None], layer["kernel"], (1, 1), "SAME", dimension_numbers=numbers
    )
    return y[0] + layer["bias"][None, None]
