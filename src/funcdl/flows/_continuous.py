"""Continuous flows with a network for their velocity."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl.flows._conditioner import Conditioner
from funcdl.flows._flow import Flow, check_form
from funcdl.flows._ode import flow_ode


def velocity(conditioner: Conditioner) -> Callable:
    """Take a network of ``(x, t)`` as a velocity.

    Args:
        conditioner: Of vectors; smooth activations make a smooth velocity.

    Returns:
        ``velocity(t, x, params, context=None)``, as ``flow_ode`` takes it; ``params`` are those of
        ``continuous``.
    """

    def v(t, x, params, context=None):
        return conditioner.apply(params, jnp.append(x, t.astype(x.dtype)), context)

    return v


def continuous(conditioner: Conditioner, *, steps: int = 8) -> Flow:
    """Build a continuous flow: follow a network's velocity from time 0 to 1.

    Its log-determinant comes with ``flow_ode_log_det(velocity(conditioner), steps=steps)``, called
    with ``(x, params, context)``, without writing out the Jacobian of all the steps.

    Args:
        conditioner: Of vectors, as ``mlp(64, 64, activation=jnp.tanh)``.
        steps: Of the integration.

    Returns:
        A flow of points ``(d,)``; it starts as the identity where the network starts at 0.

    Raises:
        TypeError: If ``steps`` is no integer.
        ValueError: If ``steps < 1``.

    >>> from funcdl import density, flows
    >>> flow = flows.continuous(flows.mlp(8, activation=jnp.tanh))
    >>> flow.forward(flow.init(jax.random.key(0), jnp.ones(2)), jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    follow = flow_ode(velocity(conditioner), steps=steps)

    def init(key, x, context=None):
        check_form(x, 1)
        d = x.shape[0]
        return conditioner.init(key, jax.ShapeDtypeStruct((d + 1,), x.dtype), d, context)

    return Flow(init, lambda params, x, context=None: follow(x, params, context))
