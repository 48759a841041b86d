"""Flows of images: squeeze, 1x1 convolution, convolutional coupling, and Glow built from them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._check import at_least, real_array
from funcdl._typing import Array, ArrayLike, Float, Shaped
from funcdl.flows._conditioner import Conditioner
from funcdl.flows._elements import affine_element
from funcdl.flows._flow import Flow, chain, check_form, from_function, repeat


def squeeze(x: Float[Array, "h w c"]) -> Float[Array, "i j k"]:
    """Turn space into channels: each 2x2 square of pixels becomes one pixel.

    Args:
        x: One image, ``(2h, 2w, c)``.

    Returns:
        The same numbers as ``(h, w, 4c)``.

    Raises:
        ValueError: If height or width is odd.
        TypeError: If x is not of floats.

    Source: Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP" (2017).

    >>> from funcdl import density, flows
    >>> flows.squeeze(jnp.arange(4.0).reshape(2, 2, 1)).tolist()
    [[[0.0, 1.0, 2.0, 3.0]]]
    """
    h, w, c = real_array("x", x, 3).shape
    if h % 2 or w % 2:
        raise ValueError(f"x has shape {x.shape}; expected an even height and an even width")
    squares = x.reshape(h // 2, 2, w // 2, 2, c).transpose(0, 2, 1, 3, 4)
    return squares.reshape(h // 2, w // 2, 4 * c)


def conv1x1() -> Flow:
    r"""Multiply every pixel by one matrix, parameterized by its factors, :math:`W = L U`.

    L has ones on its diagonal, and U has :math:`e^{s}`. Both are the identity at initialization.

    Returns:
        A flow of images ``(h, w, c)``.

    Source: Kingma and Dhariwal, "Glow" (2018).

    >>> from funcdl import density, flows
    >>> flow = flows.conv1x1()
    >>> params = flow.init(jax.random.key(0), jnp.ones((2, 2, 3)))
    >>> flow.forward(params, jnp.ones((2, 2, 3))).shape
    (2, 2, 3)
    """
    return _CONV1X1


def actnorm() -> Flow:
    r"""Scale and shift every channel, :math:`z = x\,e^s + t`; at initialization, the identity.

    Returns:
        A flow of arrays whose last axis is that of the channels.

    Source: Kingma and Dhariwal, "Glow" (2018), where the first batch determines the initialization;
    standardize the data instead.

    >>> from funcdl import density, flows
    >>> flow = flows.actnorm()
    >>> flow.forward(flow.init(jax.random.key(0), jnp.ones(3)), jnp.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """
    return _ACTNORM


def image_coupling(conditioner: Conditioner) -> Flow:
    """Scale and shift the second half of the channels by a function of the first half.

    As in ``real_nvp``, the channels are shifted cyclically afterwards.

    Args:
        conditioner: A conditioner of images, such as ``cnn``.

    Returns:
        A flow of images ``(h, w, c)``.

    >>> from funcdl import density, flows
    >>> flow = flows.image_coupling(flows.cnn(8))
    >>> params = flow.init(jax.random.key(0), jnp.ones((2, 2, 4)))
    >>> flow.forward(params, jnp.ones((2, 2, 4))).shape
    (2, 2, 4)
    """
    affine = affine_element()

    def init(key, x, context=None):
        check_form(x, 3)
        *space, c = x.shape
        held = jax.ShapeDtypeStruct((*space, c // 2), x.dtype)
        return conditioner.init(key, held, affine.size * (c - c // 2), context)

    def forward(params, x, context=None):
        x = real_array("x", x, 3)
        a, b = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        raw = jnp.split(conditioner.apply(params, a, context), affine.size, axis=-1)
        return jnp.concatenate([affine.apply(raw, b), a], axis=-1)

    return Flow(init, forward)


def glow(levels: int, steps: int, conditioner: Conditioner) -> Flow:
    """Build Glow: at each level a squeeze, then steps of actnorm, 1x1 convolution and coupling.

    After each level except the last one, half of the channels go directly to the output.

    Args:
        levels: The number of levels; height and width must be divisible by ``2**levels``.
        steps: The number of steps of each level, which run in one ``scan``.
        conditioner: A conditioner of images, such as ``cnn``.

    Returns:
        A flow from images ``(h, w, c)`` to vectors ``(h w c,)``.

    Raises:
        ValueError: If ``levels`` or ``steps`` is less than 1.
        TypeError: If ``levels`` or ``steps`` is not an integer.

    Source: Kingma and Dhariwal, "Glow" (2018).

    >>> from funcdl import density, flows
    >>> flow = flows.glow(2, 1, flows.cnn(4))
    >>> params = flow.init(jax.random.key(0), jnp.ones((4, 4, 1)))
    >>> flow.forward(params, jnp.ones((4, 4, 1))).shape
    (16,)
    """
    at_least("levels", levels, 1)
    step = chain(actnorm(), conv1x1(), image_coupling(conditioner))
    level = chain(from_function(squeeze), repeat(step, steps))

    def init(key, x, context=None):
        check_form(x, 3)
        params = []
        for key_level in jax.random.split(key, levels):
            params.append(level.init(key_level, x, context))
            x = jax.eval_shape(level.forward, params[-1], x, context)
            x = jax.ShapeDtypeStruct((*x.shape[:2], x.shape[2] // 2), x.dtype)
        return params

    def forward(params, x, context=None):
        finished = []
        for i, own in enumerate(params):
            x = level.forward(own, x, context)
            if i < levels - 1:
                x, done = jnp.split(x, 2, axis=-1)
                finished.append(done.ravel())
        return jnp.concatenate([*finished, x.ravel()])

    return Flow(init, forward)


def _init_conv1x1(x: Shaped) -> dict:
    check_form(x, 3)
    c = x.shape[-1]
    square = jnp.zeros((c, c), x.dtype)
    return {"lower": square, "upper": square, "log_scale": jnp.zeros(c, x.dtype)}


def _conv1x1(params: dict, x: ArrayLike) -> Array:
    x = real_array("x", x, 3)
    upper = jnp.triu(params["upper"], 1) + jnp.diag(jnp.exp(params["log_scale"]))
    lower = jnp.tril(params["lower"], -1) + jnp.eye(x.shape[-1], dtype=x.dtype)
    return x @ upper.T @ lower.T


def _init_actnorm(x: Shaped) -> dict:
    c = x.shape[-1]
    return {"log_scale": jnp.zeros(c, x.dtype), "shift": jnp.zeros(c, x.dtype)}


def _actnorm(params: dict, x: Array) -> Array:
    by_channel = lambda a: a.reshape((1,) * (x.ndim - 1) + a.shape)
    return x * jnp.exp(by_channel(params["log_scale"])) + by_channel(params["shift"])


def _unconditional(init: Callable[[Shaped], dict], forward: Callable[..., Array]) -> Flow:
    return Flow(
        lambda key, x, context=None: init(x), lambda params, x, context=None: forward(params, x)
    )


_CONV1X1 = _unconditional(_init_conv1x1, _conv1x1)
_ACTNORM = _unconditional(_init_actnorm, _actnorm)
