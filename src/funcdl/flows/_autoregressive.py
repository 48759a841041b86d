"""Autoregressive flows: the coordinates before each one determine its transformation."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._check import real_array
from funcdl._typing import Array
from funcdl.flows._conditioner import check_inputs, check_widths, draw_layers
from funcdl.flows._elements import Element, affine_element, spline_element
from funcdl.flows._flow import Flow, check_form, repeat


def masked_autoregressive(layers: int, *widths: int) -> Flow:
    r"""Build affine autoregressive layers, each followed by a reversal of the coordinates.

    .. math:: z_i = x_i\, e^{s_i(x_1, \dots, x_{i-1})} + t_i(x_1, \dots, x_{i-1})

    with :math:`|s_i| < 3`. A masked network (MADE) computes all s and t at once. Its masks are
    constants, so ``funcdl.density`` finds the triangular Jacobian. The density costs one pass, and
    a sample costs d passes.

    Args:
        layers: The number of layers.
        widths: The widths of the hidden layers of each network.

    Returns:
        A flow of points ``(d,)``. At initialization it is the identity up to the reversals.

    Raises:
        ValueError: If ``layers`` or a width is less than 1.
        TypeError: If ``layers`` or a width is not an integer.

    Source: Papamakarios, Pavlakou and Murray, "Masked autoregressive flow for density estimation"
    (2017); Germain et al., "MADE" (2015).

    >>> from funcdl import density, flows
    >>> flow = flows.masked_autoregressive(2, 8)
    >>> flow.forward(flow.init(jax.random.key(0), jnp.ones(3)), jnp.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """
    return repeat(_autoregressive(widths, affine_element()), layers)


def spline_autoregressive(layers: int, *widths: int, bins: int = 8, bound: float = 4.0) -> Flow:
    """Build autoregressive layers of monotone splines, each followed by a reversal.

    This is ``masked_autoregressive`` with a ``rational_quadratic`` spline for each coordinate.

    Args:
        layers: The number of layers.
        widths: The widths of the hidden layers of each network.
        bins: The number of pieces of a spline.
        bound: The splines act on numbers between ``-bound`` and ``bound``.

    Returns:
        A flow of points ``(d,)``. At initialization it is the identity up to the reversals.

    Raises:
        ValueError: If ``layers`` or a width is less than 1, ``bins < 2`` or ``bound`` is not
            positive.
        TypeError: If ``layers``, ``bins`` or a width is not an integer.

    Source: Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows" (2019), RQ-NSF (AR).

    >>> from funcdl import density, flows
    >>> flow = flows.spline_autoregressive(2, 8)
    >>> params = flow.init(jax.random.key(0), jnp.ones(3))
    >>> flow.forward(params, jnp.arange(3.0)).round(4).tolist()
    [0.0, 1.0, 2.0]
    """
    return repeat(_autoregressive(widths, spline_element(bins, bound)), layers)


def _autoregressive(widths: tuple[int, ...], element: Element) -> Flow:
    check_widths(widths)

    def init(key, x, context=None):
        check_form(x, 1)
        key_layers, key_context = jax.random.split(key)
        d = x.shape[0]
        params = {"layers": draw_layers(key_layers, (d, *widths, element.size * d), (), x.dtype)}
        if context is not None:
            fan_in, bias = math.prod(context.shape), params["layers"][0]["bias"]
            kernel = jax.random.normal(key_context, (fan_in, len(bias)), x.dtype)
            # without hidden layers this kernel belongs to the last layer, which starts at zero
            params["context"] = kernel * (1 if widths else 0) / max(1, fan_in) ** 0.5
        return params

    def forward(params, x, context=None):
        x = real_array("x", x, 1)
        raw = _made(params, x, context, element.size)
        return element.apply(raw.reshape(element.size, len(x)), x)[::-1]

    return Flow(init, forward)


def _made(params: dict, x: Array, context: Array | None, size: int) -> Array:
    """Run the masked network; output i of each group depends only on the inputs before i."""
    layers = params["layers"]
    h = x
    for i, (layer, mask) in enumerate(zip(layers, _masks(layers, len(x), size, context))):
        check_inputs(h, layer["kernel"])
        h = (jax.nn.relu(h) if i else h) @ jnp.where(mask, layer["kernel"], 0) + layer["bias"]
        if i == 0 and context is not None:
            h = h + context.ravel().astype(h.dtype) @ params["context"]
    return h


def _masks(layers: list[dict], d: int, size: int, context: Array | None) -> list[np.ndarray]:
    """Build the masks of Germain et al.: a unit of degree m sees the inputs 1 to m."""
    # a unit of degree 0 sees only the context
    lowest = 0 if context is not None or d == 1 else 1
    hidden = [lowest + np.arange(len(layer["bias"])) % (d - lowest) for layer in layers[:-1]]
    outputs = np.tile(np.arange(1, d + 1) - 1, size)
    degrees = [np.arange(1, d + 1), *hidden, outputs]
    return [m[:, None] <= n[None] for m, n in itertools.pairwise(degrees)]
