"""Continuous flows whose velocity is a network."""

import jax
import jax.numpy as jnp

from funcdl.flows._conditioner import Conditioner
from funcdl.flows._flow import Flow, check_form
from funcdl.flows._ode import Velocity, flow_ode


def velocity(conditioner: Conditioner) -> Velocity:
    """Turn a network of ``(x, t)`` into a velocity.

    Args:
        conditioner: A conditioner of vectors; smooth activations make the velocity smooth.

    Returns:
        A function ``velocity(t, x, params, context=None)`` for ``flow_ode``; ``params`` are those
        of ``continuous``.
    """

    def v(t, x, params, context=None):
        return conditioner.apply(params, jnp.append(x, t.astype(x.dtype)), context)

    return v


def continuous(conditioner: Conditioner, *, steps: int = 8) -> Flow:
    """Build a continuous flow, which follows the velocity of a network from time 0 to 1.

    To compute the log-determinant without the Jacobian of all steps, call
    ``flow_ode_log_det(velocity(conditioner), steps=steps)`` with ``(x, params, context)``.

    Args:
        conditioner: A conditioner of vectors, such as ``mlp(64, 64, activation=jnp.tanh)``.
        steps: The number of integration steps.

    Returns:
        A flow of points ``(d,)``. At initialization it is the identity if the network is zero.

    Raises:
        TypeError: If ``steps`` is not an integer.
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
