"""Continuous flows: maps that follow a velocity, and their log-determinants."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import at_least, check_key, function, real_array
from funcdl._typing import Array, ArrayLike, PyTree
from funcdl.density import rule
from funcdl.operators import Estimate, sample_mean

Velocity = Callable[..., Array]  # velocity(t, x, *args), of the form of x


def flow_ode(
    velocity: Velocity, *, steps: int, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable[..., Array]:
    r"""Follow a velocity from time ``t0`` to ``t1``, :math:`\dot x = v(t, x)`.

    This is the classical Runge-Kutta method of order 4 with steps of equal length, in one ``scan``;
    its error falls as ``steps**-4`` where the velocity is smooth. Both modes of differentiation
    differentiate the discrete steps; reverse mode recomputes each step, so only its start is
    stored. ``density.inverse`` follows the velocity backward, and ``density.value_and_log_det``
    uses ``flow_ode_log_det``; both are accurate up to the error of the method.

    Args:
        velocity: A function ``velocity(t, x, *args)`` that returns an array of the form of ``x``.
        steps: The number of steps, with four velocities each.
        t0: The start time.
        t1: The end time.

    Returns:
        A function ``f(x, *args)`` of one point, an array of floats.

    Raises:
        TypeError: If ``velocity`` is not callable, or ``steps`` is not an integer.
        ValueError: If ``steps < 1``, or the velocity does not have the form of x.

    Source: Chen et al., "Neural ordinary differential equations" (2018).

    >>> from funcdl import density, flows
    >>> growth = flows.flow_ode(lambda t, x: x, steps=8)
    >>> growth(jnp.ones(1)).round(3).tolist()  # e
    [2.718]
    """
    forward, backward = _times(velocity, steps, t0, t1), _times(velocity, steps, t1, t0)

    def follow(times, x, *args):
        x = point(velocity, x, args)
        return _runge_kutta(lambda t, x: velocity(t, x, *args), x, times)

    trace = flow_ode_log_det(velocity, steps=steps, t0=t0, t1=t1)
    return rule(
        partial(follow, forward),
        log_det=lambda x, *args: trace(x, *args)[1],
        inverse=partial(follow, backward),
    )


def flow_ode_log_det(
    velocity: Velocity, *, steps: int, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable[..., tuple[Array, Array]]:
    r"""Follow a velocity, and integrate the trace of its Jacobian along the path.

    .. math:: \log |\det \partial z / \partial x|
              = \int_{t_0}^{t_1} \operatorname{tr} \frac{\partial v}{\partial x}\, dt

    The trace is exact and costs n derivatives of the velocity at each evaluation. The integral has
    the error of the method, as does the path.

    Args:
        velocity: As in ``flow_ode``.
        steps: As in ``flow_ode``.
        t0: The start time.
        t1: The end time.

    Returns:
        A function ``g(x, *args) -> (z, log_det)``.

    Raises:
        TypeError: If ``velocity`` is not callable, or ``steps`` is not an integer.
        ValueError: If ``steps < 1``, or the velocity does not have the form of x.

    Source: Chen et al., "Neural ordinary differential equations" (2018), theorem 1.

    >>> from funcdl import density, flows
    >>> z, log_det = flows.flow_ode_log_det(lambda t, x: 3 * x, steps=4)(jnp.ones(2))
    >>> log_det.round(4).item()
    6.0
    """
    times = _times(velocity, steps, t0, t1)

    def g(x, *args):
        x = point(velocity, x, args)
        extended = with_trace(velocity, x, args)
        return _runge_kutta(extended, (x, jnp.zeros((), x.dtype)), times)

    return g


def flow_ode_hutchinson(
    velocity: Velocity, *, steps: int, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable[..., tuple[Array, Estimate]]:
    r"""Follow a velocity, and integrate an estimate of the trace of its Jacobian along the path.

    .. math:: \log |\det \partial z / \partial x|
              = E \int_{t_0}^{t_1} \epsilon^\top \frac{\partial v}{\partial x} \epsilon\, dt

    with random signs :math:`\epsilon` that are constant along a path. The estimate of the
    log-determinant is unbiased up to the error of the method; its exponential is too large on
    average.

    Args:
        velocity: As in ``flow_ode``.
        steps: As in ``flow_ode``.
        t0: The start time.
        t1: The end time.

    Returns:
        A function ``g(x, *args, key, probes=1) -> (z, log_det)``, where ``log_det`` is an
        ``Estimate`` over the probes. Its standard error is NaN for one probe, which is sufficient
        for training.

    Raises:
        TypeError: If ``velocity`` is not callable, ``steps`` is not an integer, or the key is not
            typed.
        ValueError: If ``steps < 1`` or ``probes < 1``, or the velocity does not have the form of x.

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

        def extended(t, state):
            v, push = jax.linearize(lambda x: velocity(t, x, *args), state[0])
            return v, jax.vmap(lambda e: jnp.vdot(e, push(e)))(signs)

        z, log_dets = _runge_kutta(extended, (x, jnp.zeros(probes, x.dtype)), times)
        return z, sample_mean(log_dets, 4 * len(times[0]) * probes)

    return g


# The state is x, or x and its log-determinant: both are integrated by the same steps, so both have
# the error of the method. Steps of equal length make the loop a scan, which both modes
# differentiate and vmap batches without lanes that wait for others. The derivative is that of the
# discrete steps, not the adjoint equation of Chen et al. (2018), whose path back is only close to
# the path forward; with the checkpoint it stores one state per step. The start times are computed
# on the host, one by one, because a running sum of h would drift in float32.
def _runge_kutta(
    velocity: Callable[..., PyTree], state: PyTree, times: tuple[list[float], float]
) -> PyTree:
    starts = jnp.asarray(times[0], jax.tree.leaves(state)[0].dtype)
    h = times[1]

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


def with_trace(velocity: Velocity, x: Array, args: tuple) -> Callable[..., tuple[Array, Array]]:
    """Extend a velocity by the trace of its Jacobian, for the state ``(x, log_det)``."""

    def extended(t, state):
        v = lambda flat: velocity(t, flat.reshape(x.shape), *args).ravel()
        flat = state[0].ravel()
        return v(flat).reshape(x.shape), jnp.trace(jax.jacfwd(v)(flat))

    return extended


def _times(
    velocity: Velocity, steps: int, t0: float | int, t1: float | int
) -> tuple[list[float], float]:
    """Return the start times of the steps, and their length."""
    check_times(velocity, t0, t1)
    at_least("steps", steps, 1)
    return [t0 + (t1 - t0) * i / steps for i in range(steps)], (t1 - t0) / steps


def check_times(velocity: Velocity, t0: float | int, t1: float | int) -> None:
    """Check the arguments of an integration.

    Raises:
        TypeError: If ``velocity`` is not callable.
        ValueError: If a time is not finite.
    """
    function("velocity", velocity)
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise ValueError(f"t0 and t1 are {t0} and {t1}; expected finite numbers")


def point(velocity: Velocity, x: ArrayLike, args: tuple) -> Array:
    """Return a point as a float array, and check that its velocity has the same form.

    Raises:
        TypeError: If x is not of floats.
        ValueError: If the velocity has another form than x.
    """
    x = real_array("x", x, jnp.ndim(x))
    v = jax.eval_shape(velocity, jax.ShapeDtypeStruct((), x.dtype), x, *args)
    if (v.shape, v.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"the velocity is {v.dtype}{list(v.shape)}, but x is {x.dtype}{list(x.shape)}; "
            "expected a velocity of the shape and dtype of x"
        )
    return x
