"""Continuous flows: maps that follow a velocity, and their log-determinants along the way."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import at_least, check_key, function, real_array
from funcdl._typing import PyTree
from funcdl.density import rule
from funcdl.operators import Estimate, sample_mean


def flow_ode(
    velocity: Callable, *, steps: int, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable:
    r"""Follow a velocity from time ``t0`` to ``t1``, :math:`\dot x = v(t, x)`.

    The classical Runge-Kutta method of order 4 with steps of equal length, in one ``scan``; its
    error falls as ``steps**-4`` where the velocity is smooth. Derivatives in both modes are those
    of what is computed; backward each step is computed again, so that of each step its start alone
    is kept. ``inverse`` follows the velocity back, ``value_and_log_det`` takes
    ``flow_ode_log_det``: both are right to the error of the method.

    Args:
        velocity: ``velocity(t, x, *args)``, like ``x``.
        steps: How many steps, at four velocities each.
        t0: Where it starts.
        t1: Where it ends.

    Returns:
        ``f(x, *args)`` of one point, an array of floats.

    Raises:
        TypeError: If ``velocity`` is no function, or ``steps`` no integer.
        ValueError: If ``steps < 1``, or the velocity is not like x.

    Source: Chen et al., "Neural ordinary differential equations" (2018).

    >>> from funcdl import density, flows
    >>> growth = flows.flow_ode(lambda t, x: x, steps=8)
    >>> growth(jnp.ones(1)).round(3).tolist()  # e
    [2.718]
    """
    there, back = _times(velocity, steps, t0, t1), _times(velocity, steps, t1, t0)

    def follow(times, x, *args):
        x = point(velocity, x, args)
        return _runge_kutta(lambda t, x: velocity(t, x, *args), x, times)

    trace = flow_ode_log_det(velocity, steps=steps, t0=t0, t1=t1)
    return rule(
        partial(follow, there),
        log_det=lambda x, *args: trace(x, *args)[1],
        inverse=partial(follow, back),
    )


def flow_ode_log_det(
    velocity: Callable, *, steps: int, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable:
    r"""Follow a velocity, and integrate the trace of its Jacobian along the way.

    .. math:: \log |\det \partial z / \partial x|
              = \int_{t_0}^{t_1} \operatorname{tr} \frac{\partial v}{\partial x}\, dt

    The trace is exact, n derivatives of the velocity at a time; the integral has the error of the
    method, as the path.

    Args:
        velocity: As of ``flow_ode``.
        steps: As of ``flow_ode``.
        t0: Where it starts.
        t1: Where it ends.

    Returns:
        ``g(x, *args) -> (z, log_det)``.

    Raises:
        TypeError: If ``velocity`` is no function, or ``steps`` no integer.
        ValueError: If ``steps < 1``, or the velocity is not like x.

    Source: Chen et al., "Neural ordinary differential equations" (2018), theorem 1.

    >>> from funcdl import density, flows
    >>> z, log_det = flows.flow_ode_log_det(lambda t, x: 3 * x, steps=4)(jnp.ones(2))
    >>> log_det.round(4).item()
    6.0
    """
    times = _times(velocity, steps, t0, t1)

    def g(x, *args):
        x = point(velocity, x, args)
        widened = with_trace(velocity, x, args)
        return _runge_kutta(widened, (x, jnp.zeros((), x.dtype)), times)

    return g


def flow_ode_hutchinson(
    velocity: Callable, *, steps: int, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable:
    r"""Follow a velocity, and integrate an estimate of the trace of its Jacobian along the way.

    .. math:: \log |\det \partial z / \partial x|
              = E \int_{t_0}^{t_1} \epsilon^\top \frac{\partial v}{\partial x} \epsilon\, dt

    with random signs :math:`\epsilon` that stay the same along a path. Of the log-determinant this
    is unbiased, but for the error of the method; the exponential of it is too large on average.

    Args:
        velocity: As of ``flow_ode``.
        steps: As of ``flow_ode``.
        t0: Where it starts.
        t1: Where it ends.

    Returns:
        ``g(x, *args, key, probes=1) -> (z, log_det)``, an ``Estimate`` over the probes; its
        standard error is NaN for one probe, which is enough to train with.

    Raises:
        TypeError: If ``velocity`` is no function, ``steps`` no integer, or the key not typed.
        ValueError: If ``steps < 1`` or ``probes < 1``, or the velocity is not like x.

    Source: Grathwohl et al., "FFJORD" (2019).

    >>> from funcdl import density, flows
    >>> follow = flows.flow_ode_hutchinson(lambda t, x: 3 * x, steps=4)
    >>> z, log_det = follow(jnp.ones(2), key=jax.random.key(0), probes=2)
    >>> log_det.value.round(4).item()
    6.0
    """
    times = _times(velocity, steps, t0, t1)

    def g(x, *args, key, probes=1) -> tuple[PyTree, Estimate]:
        check_key(key)
        at_least("probes", probes, 1)
        x = point(velocity, x, args)
        signs = jax.random.rademacher(key, (probes, *x.shape), x.dtype)

        def widened(t, state):
            v, push = jax.linearize(lambda x: velocity(t, x, *args), state[0])
            return v, jax.vmap(lambda e: jnp.vdot(e, push(e)))(signs)

        z, log_dets = _runge_kutta(widened, (x, jnp.zeros(probes, x.dtype)), times)
        return z, sample_mean(log_dets, 4 * len(times[0]) * probes)

    return g


def _runge_kutta(velocity: Callable, state: PyTree, times) -> PyTree:
    starts, h = times
    starts = jnp.asarray(starts, jax.tree.leaves(state)[0].dtype)

    @jax.checkpoint
    def step(x, t):
        moved = lambda part, k: _tree.axpy(part * h, k, x)
        k1 = velocity(t, x)
        k2 = velocity(t + h / 2, moved(1 / 2, k1))
        k3 = velocity(t + h / 2, moved(1 / 2, k2))
        k4 = velocity(t + h, moved(1, k3))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        return _tree.axpy(h, mean, x), None

    return jax.lax.scan(step, state, starts)[0]


def with_trace(velocity: Callable, x, args) -> Callable:
    """Widen a velocity by the trace of its Jacobian, for the state ``(x, log_det)``."""

    def widened(t, state):
        v = lambda flat: velocity(t, flat.reshape(x.shape), *args).ravel()
        flat = state[0].ravel()
        return v(flat).reshape(x.shape), jnp.trace(jax.jacfwd(v)(flat))

    return widened


def _times(velocity, steps: int, t0, t1):
    """Return where the steps start, and their length."""
    check_times(velocity, t0, t1)
    at_least("steps", steps, 1)
    return [t0 + (t1 - t0) * i / steps for i in range(steps)], (t1 - t0) / steps


def check_times(velocity, t0, t1) -> None:
    """Refuse what cannot be followed.

    Raises:
        TypeError: If ``velocity`` is no function.
        ValueError: If a time is not finite.
    """
    function("velocity", velocity)
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise ValueError(f"t0 and t1 are {t0} and {t1}; expected finite numbers")


def point(velocity, x, args):
    """Return a point of floats whose velocity is like it.

    Raises:
        TypeError: If x is not of floats.
        ValueError: If its velocity is not like it.
    """
    x = real_array("x", x, jnp.ndim(x))
    v = jax.eval_shape(velocity, jax.ShapeDtypeStruct((), x.dtype), x, *args)
    if (v.shape, v.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"the velocity is {v.dtype}{list(v.shape)} where x is {x.dtype}{list(x.shape)}; "
            "expected an array like x"
        )
    return x
