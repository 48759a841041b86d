"""The pair ``Flow(init, forward)``: a map of one point, with parameters, from data to base."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._check import at_least
from funcdl._closure import once


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Flow:
    """An invertible map with parameters, as a pair of pure functions.

    It maps one data point to one point of the base distribution. No inverse and no log-determinant
    belong to it: with ``log_p`` the density of the base, that of the data is
    ``pullback(log_p, Partial(flow.forward, params))``. Two flows built twice are two compilations,
    so build one once.

    Attributes:
        init: ``init(key, x, context=None) -> params``; reads only the shapes and dtypes of one
            point and its context, ``jax.ShapeDtypeStruct`` is enough.
        forward: ``forward(params, x, context=None) -> z``; a context is an array that the map may
            depend on.

    >>> flow = Flow(
    ...     init=lambda key, x, context=None: jnp.zeros(x.shape),
    ...     forward=lambda params, x, context=None: x * jnp.exp(params),
    ... )
    >>> params = flow.init(jax.random.key(0), jax.ShapeDtypeStruct((2,), jnp.float32))
    >>> flow.forward(params, jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    init: Callable
    forward: Callable


def from_function(f: Callable) -> Flow:
    """Take a map without parameters as a flow.

    Args:
        f: Invertible ``f(x) -> z`` of one point.

    Returns:
        The flow; it ignores a context.

    >>> from_function(jnp.flip).forward((), jnp.arange(3.0)).tolist()
    [2.0, 1.0, 0.0]
    """
    return Flow(lambda key, x, context=None: (), lambda params, x, context=None: f(x))


def chain(*flows: Flow) -> Flow:
    """Apply flows one after the other, the first to the data.

    Args:
        flows: At least one; each takes what the one before returns.

    Returns:
        A flow whose parameters are the tuple of theirs; a context goes to each.

    Raises:
        ValueError: If there is none.

    >>> flow = chain(from_function(jnp.exp), from_function(jnp.flip))
    >>> flow.forward(((), ()), jnp.zeros(2)).tolist()
    [1.0, 1.0]
    """
    if not flows:
        raise ValueError("chain of no flows; expected at least one")

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
    """Apply a flow several times, each time with parameters of its own, in one ``scan``.

    Args:
        flow: Returns points of the form that it takes.
        times: How often, at least once.

    Returns:
        A flow; each leaf of its parameters has a leading axis ``times``.

    Raises:
        ValueError: If ``times < 1``.
        TypeError: If it is no integer.

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


def check_form(x, ndim: int) -> None:
    """Refuse what is not the form of one point of floats.

    Raises:
        TypeError: If it is not of floats.
        ValueError: If it has another number of axes.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x has dtype {x.dtype}; a flow needs floats, dequantize integers first")
    if len(x.shape) != ndim:
        kind = {1: "(d,)", 3: "(height, width, channels)"}[ndim]
        hint = "; init reads one point, x[0] of a batch" if len(x.shape) > ndim else ""
        raise ValueError(f"x has shape {tuple(x.shape)}; expected one point {kind}{hint}")
