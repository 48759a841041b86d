"""Continuous flows with adaptive steps by diffrax (extra ``ode``)."""

import importlib
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp

from funcdl._check import not_negative
from funcdl._typing import Array, PyTree
from funcdl.flows._ode import Velocity, check_times, point, with_trace


def flow_ode_adaptive(
    velocity: Velocity, *, tol: float = 1e-5, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable[..., Array]:
    r"""Follow a velocity with steps that a tolerance determines, using diffrax's Tsit5.

    Prefer ``flow_ode`` if the cost has to be known in advance, or for forward-mode derivatives: the
    gradients here are those of the steps taken, from diffrax's recursive checkpoints, and exist in
    reverse mode only.

    Args:
        velocity: A function ``velocity(t, x, *args)`` that returns an array of the form of ``x``.
        tol: The relative and absolute error tolerance of a step.
        t0: The start time.
        t1: The end time.

    Returns:
        A function ``f(x, *args)`` of one point, an array of floats. The result is NaN where 4096
        steps do not suffice.

    Raises:
        ImportError: If ``diffrax`` is missing.
        TypeError: If ``velocity`` is not callable.
        ValueError: If ``t0`` or ``t1`` is not finite, or ``tol`` is negative.

    Source: Kidger, "On neural differential equations" (2021).
    """
    follow = _follow(velocity, tol, t0, t1)

    def f(x, *args):
        x = point(velocity, x, args)
        return follow(lambda t, x: velocity(t, x, *args), x)

    return f


def flow_ode_log_det_adaptive(
    velocity: Velocity, *, tol: float = 1e-5, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable[..., tuple[Array, Array]]:
    r"""Follow a velocity with adaptive steps, and integrate the exact trace of its Jacobian.

    Args:
        velocity: As in ``flow_ode_adaptive``.
        tol: The relative and absolute error tolerance of a step, for both the point and the
            log-determinant.
        t0: The start time.
        t1: The end time.

    Returns:
        A function ``g(x, *args) -> (z, log_det)``.

    Raises:
        ImportError: If ``diffrax`` is missing.
        TypeError: If ``velocity`` is not callable.
        ValueError: If ``t0`` or ``t1`` is not finite, or ``tol`` is negative.

    Source: Chen et al., "Neural ordinary differential equations" (2018), theorem 1.
    """
    follow = _follow(velocity, tol, t0, t1)

    def g(x, *args):
        x = point(velocity, x, args)
        return follow(with_trace(velocity, x, args), (x, jnp.zeros((), x.dtype)))

    return g


def _follow(
    velocity: Velocity, tol: float, t0: float | int, t1: float | int
) -> Callable[..., PyTree]:
    """Return the function ``follow(velocity, state)`` that integrates from ``t0`` to ``t1``."""
    check_times(velocity, t0, t1)
    not_negative("tol", tol)
    diffrax = _diffrax()

    def follow(velocity, state):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, state, _: velocity(t, state)),
            diffrax.Tsit5(),
            t0,
            t1,
            dt0=None,
            y0=state,
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
            throw=False,
        )
        factor = jnp.where(solution.result == diffrax.RESULTS.successful, 1, jnp.nan)
        return jax.tree.map(lambda a: a[-1] * factor.astype(a.dtype), solution.ys)

    return follow


def _diffrax() -> ModuleType:
    try:
        return importlib.import_module("diffrax")
    except ImportError as error:
        raise ImportError(
            "adaptive steps need diffrax: pip install 'funcdl[ode]'. If it is installed, it does "
            f"not support jax {jax.__version__}: {error}"
        ) from error
