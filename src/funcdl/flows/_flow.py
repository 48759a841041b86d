"""The pair ``Flow(init, forward)``: a map of one point, with parameters, from data to base."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._check import at_least
from funcdl._closure import once
from funcdl._typing import Array, PyTree, Shaped


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Flow:
    """An invertible map with parameters, as a pair of pure functions.

    It maps one data point to one point of the base distribution. It needs neither an inverse nor a
    log-determinant: if ``log_p`` is the log-density of the base, that of the data is
    ``pullback(log_p, Partial(flow.forward, params))``. Build a flow once and reuse it, because each
    new flow object causes a new compilation.

    Attributes:
        init: ``init(key, x, context=None) -> params``; it reads only the shapes and dtypes of one
            point and its context, so both may be ``jax.ShapeDtypeStruct``.
        forward: ``forward(params, x, context=None) -> z``; the map may depend on the array
            ``context``.

    >>> flow = Flow(
    ...     init=lambda key, x, context=None: jnp.zeros(x.shape),
    ...     forward=lambda params, x, context=None: x * jnp.exp(params),
    ... )
    >>> params = flow.init(jax.random.key(0), jax.ShapeDtypeStruct((2,), jnp.float32))
    >>> flow.forward(params, jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    init: Callable[..., PyTree]
    forward: Callable[..., Array]


def from_function(f: Callable[[Array], Array]) -> Flow:
    """Turn a map without parameters into a flow.

    Args:
        f: An invertible function ``f(x) -> z`` of one point.

    Returns:
        The flow, which ignores a context.

    >>> from_function(jnp.flip).forward((), jnp.arange(3.0)).tolist()
    [2.0, 1.0, 0.0]
    """
    return Flow(lambda key, x, context=None: (), lambda params, x, context=None: f(x))


def chain(*flows: Flow) -> Flow:
    """Compose flows; the first one is applied to the data.

    Args:
        flows: At least one flow; each one takes the output of the one before.

    Returns:
        A flow whose parameters are the tuple of the parameters of ``flows``. A context is passed to
        every one of them.

    Raises:
        ValueError: If ``flows`` is empty.

    >>> flow = chain(from_function(jnp.exp), from_function(jnp.flip))
    >>> flow.forward(((), ()), jnp.zeros(2)).tolist()
    [1.0, 1.0]
    """
    if not flows:
        raise ValueError("chain() got no flows; expected at least one flow")

    def init(key, x, context=None):
        params = []
        for flow, key_flow in zip(flows, jax.random.split(key, len(flows)), strict=True):
            params.append(flow.init(key_flow, x, context))
            x = jax.eval_shape(flow.forward, params[-1], x, context)
        return tuple(params)

    def forward(params, x, context=None):
        for flow, own in zip(flows, params, strict=True):
            x = flow.forward(own, x, context)
        return x

    return Flow(init, forward)


def repeat(flow: Flow, times: int) -> Flow:
    """Apply a flow several times in one ``scan``, each time with its own parameters.

    Args:
        flow: A flow whose outputs have the form of its inputs.
        times: The number of repetitions, at least 1.

    Returns:
        A flow; each leaf of its parameters has a leading axis ``times``.

    Raises:
        ValueError: If ``times < 1``.
        TypeError: If ``times`` is not an integer.

    >>> double = Flow(lambda key, x, context=None: 2.0, lambda a, x, context=None: a * x)
    >>> eightfold = repeat(double, 3)
    >>> eightfold.forward(eightfold.init(jax.random.key(0), jnp.ones(1)), jnp.ones(1)).tolist()
    [8.0]
    """
    at_least("times", times, 1)

    def init(key, x, context=None):
        draw = lambda key: jax.tree.map(jnp.asarray, flow.init(key, x, context))
        return once(jax.vmap(draw, axis_size=times))(jax.random.split(key, times))

    def forward(params, x, context=None):
        return jax.lax.scan(lambda x, own: (flow.forward(own, x, context), None), x, params)[0]

    return Flow(init, forward)


def check_form(x: Shaped, ndim: int) -> None:
    """Check that x has the form of one point of floats.

    Raises:
        TypeError: If x is not of floats.
        ValueError: If x has another number of axes.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x has dtype {x.dtype}; expected floats: dequantize integers first")
    if len(x.shape) != ndim:
        kind = {1: "(d,)", 3: "(height, width, channels)"}[ndim]
        hint = "; for a batch, pass one of its points, x[0], to init" if len(x.shape) > ndim else ""
        raise ValueError(f"x has shape {tuple(x.shape)}; expected one point {kind}{hint}")
