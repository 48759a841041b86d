"""Conditioners: the functions of a flow that need not be invertible."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from funcdl._check import integer_in
from funcdl._typing import Array, Elementwise, Key, PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Conditioner:
    """A network that computes the parameters of a layer of a flow, as a pair of pure functions.

    Any function can be a conditioner. If it is zero at initialization, the layer starts as the
    identity.

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

    init: Callable[..., PyTree]
    apply: Callable[..., Array]


def mlp(*widths: int, activation: Elementwise = jax.nn.relu) -> Conditioner:
    """Build a multilayer perceptron on vectors, whose last layer is initialized to zero.

    Args:
        widths: The widths of the hidden layers; without widths it is an affine map.
        activation: The activation function between the layers.

    Returns:
        The conditioner. A context of any shape is flattened and appended to its input.

    Raises:
        ValueError: If a width is less than 1.
        TypeError: If a width is not an integer.

    Source: He et al., "Delving deep into rectifiers" (2015), for the scale of the initialization.

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


def cnn(*channels: int, activation: Elementwise = jax.nn.relu) -> Conditioner:
    """Build a network of 3x3 convolutions on one image, whose last layer is initialized to zero.

    Args:
        channels: The numbers of channels of the hidden layers.
        activation: The activation function between the layers.

    Returns:
        The conditioner of images ``(height, width, c)``. A context is flattened and appended to the
        channels of every pixel.

    Raises:
        ValueError: If a number of channels is less than 1.
        TypeError: If a number of channels is not an integer.

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


def draw_layers(
    key: Key[Array, ""], widths: tuple[int, ...], window: tuple[int, ...], dtype: DTypeLike
) -> list[dict]:
    """Draw the kernels ``(*window, m, n)`` and the biases of layers; the last kernel is zero."""
    params = []
    for m, n, draw in zip(widths[:-1], widths[1:], jax.random.split(key, len(widths) - 1)):
        fan_in = max(1, m * math.prod(window))
        kernel = jax.random.normal(draw, (*window, m, n), dtype) * (2 / fan_in) ** 0.5
        params.append({"kernel": kernel, "bias": jnp.zeros(n, dtype)})
    params[-1]["kernel"] = jnp.zeros_like(params[-1]["kernel"])
    return params


def check_widths(widths: tuple[int, ...]) -> None:
    """Check the widths of layers.

    Raises:
        ValueError: If a width is less than 1.
        TypeError: If a width is not an integer.
    """
    for i, width in enumerate(widths):
        integer_in(f"width {i}", width, 1, 2**31 - 1)


def check_inputs(x: Array, kernel: Array | np.ndarray) -> None:
    """Check that the number of inputs is that of the parameters.

    Raises:
        ValueError: If the numbers differ.
    """
    if x.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            f"the conditioner has {x.shape[-1]} inputs, but its parameters expect "
            f"{kernel.shape[-2]}; pass points and contexts of the forms that were passed to init"
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
